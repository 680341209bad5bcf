"""The generator that is trained: an adapter or the whole transformer, and the reference its KL is taken to.

With an adapter the reference is the transformer without it, which costs no memory; with the whole transformer it is a
frozen copy.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from torch import nn

from longrl.config import GenerateRlSettings
from longrl.diffusion.families import Family
from longrl.training.engine import Engine
from longrl.training.rank import TrainingError

ADAPTER = "lora"  # folder of the trained adapter
TRANSFORMER = "transformer"  # folder of the whole trained transformer


class Policy:
    """A transformer ready to be trained, and `reference()`, under which the same call gives the generator before RL."""

    def __init__(self, family: Family, transformer: Any, settings: GenerateRlSettings):
        self.family, self.settings, self.transformer = family, settings, transformer
        self._copy: nn.Module | None = None
        transformer.requires_grad_(settings.train == "full")
        if settings.train == "lora":
            transformer.add_adapter(
                LoraConfig(
                    r=settings.lora_rank,
                    lora_alpha=settings.lora_alpha,
                    init_lora_weights="gaussian",
                    target_modules=list(family.lora_targets),
                )
            )
        elif settings.kl:
            self._copy = copy.deepcopy(transformer).requires_grad_(False).eval()
        if settings.gradient_checkpointing == "recompute":
            transformer.enable_gradient_checkpointing()

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The generator before RL."""
        if self._copy is not None:
            yield self._copy
            return
        self.transformer.disable_adapters()
        try:
            yield self.transformer
        finally:
            self.transformer.enable_adapters()

    def to(self, device: str) -> None:
        """Move the reference's copy along with the transformer, which DeepSpeed has moved."""
        if self._copy is not None:
            self._copy.to(device)


def export(engine: Engine, policy: Policy, folder: Path) -> None:
    """Write `lora/` (an adapter as diffusers loads it) or `transformer/`; every rank calls it.

    Raises `TrainingError` when it can't be written.
    """
    with engine.whole():
        if engine.rank == 0:
            name = ADAPTER if policy.settings.train == "lora" else TRANSFORMER
            temporary, final = folder / f".{name}-writing", folder / name
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                if name == ADAPTER:
                    save_adapter(policy, temporary)
                else:
                    policy.transformer.save_pretrained(temporary)
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            except (OSError, SafetensorError) as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise TrainingError(
                    f"cannot write the trained generator to {final}: {error}; free space and run again: training goes "
                    "on from its last checkpoint"
                ) from error
    dist.barrier()


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapter as diffusers loads it; its scale goes along, without which diffusers would take 1."""
    weights = get_peft_model_state_dict(policy.transformer, adapter_name="default")
    kept = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    pipeline_class(policy.family).save_lora_weights(
        folder,
        transformer_lora_layers=kept,
        transformer_lora_adapter_metadata=policy.transformer.peft_config["default"].to_dict(),
    )


def pipeline_class(family: Family) -> Any:
    """The diffusers class of the family's pipelines."""
    import diffusers

    return getattr(diffusers, family.pipeline)


def trained(family: Family, pipeline: Path, rl: Path | None, dtype: torch.dtype, device: str) -> Any:
    """The transformer of `pipeline`, with what the artifact `rl` holds in its place or on top of it."""
    if rl is not None and (rl / TRANSFORMER).is_dir():
        return family.transformer(rl, dtype, device).eval()
    transformer = family.transformer(pipeline, dtype, device)
    if rl is not None:
        transformer.load_lora_adapter(
            str(rl / ADAPTER), weight_name="pytorch_lora_weights.safetensors", prefix="transformer"
        )
    return transformer.to(device, dtype).eval()
