"""LoRA: small trained updates of a student's language model, whose own weights stay as they are.

A linear layer W computes W x + (alpha / rank) · B A x, A (rank, in) random and B (out, rank) zero at first, so training
begins at the student itself (Hu et al. 2021, arXiv:2106.09685, section 4). The layers are peft's, put in from outside;
names are those of the whole model, so what `save_adapter` writes is an adapter of it for peft and vLLM.

1. What leaves the trainer (rollout engine, checkpoints for later stages) is `merged` or `plain`: W + (alpha / rank) ·
   B A under W's own name, made one matrix at a time; the trainer's weights are not touched.
2. The model with its adapter switched off (`without_adapter`) is the student that training began with: RL's reference,
   without a second copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longrl.config import LoraSettings
from longrl.errors import LongrlError
from longrl.models.base import Student

ADAPTER = "default"  # peft's name of it, inside the model only
BASE, PARTS = ".base_layer.", (".lora_A.", ".lora_B.")
WEIGHTS = "adapter_model.safetensors"


class LoraError(LongrlError):
    """A model can't be given the adapter that the settings or a folder ask for; the message says why."""


def add_lora(student: Student, settings: LoraSettings) -> None:
    """Put adapters into the student's language model and freeze all else of it; nothing happens at rank 0.

    Tower and projector stay trainable or frozen as they are. A is drawn from torch's generator: equal states give equal
    adapters. Raises `LoraError` when a name in `target_modules` is no linear layer of the language model.
    """
    if not settings.rank:
        return
    inside = student.language_model.named_modules()
    linear = {name.rpartition(".")[2] for name, module in inside if isinstance(module, nn.Linear)}
    if unknown := sorted(set(settings.target_modules) - linear):
        raise LoraError(
            f"lora.target_modules: the language model has no linear layer called {', '.join(unknown)}; "
            f"there are {', '.join(sorted(linear))}"
        )
    prefix = next(name for name, module in student.model.named_modules() if module is student.language_model)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"{prefix.replace('.', chr(92) + '.')}\..*\.({'|'.join(settings.target_modules)})",
        task_type="CAUSAL_LM",
    )
    student.freeze("language")
    inject(student.model, config)


def inject(model: nn.Module, config: LoraConfig) -> None:
    """Put peft's layers into the model; they are trained, and what else was stays so."""
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    inject_adapter_in_model(config, model, ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) in trained or any(part in name for part in PARTS))


def adapted(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers with an adapter, by name; none without LoRA."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """In this context the model computes what it did before training; no backward pass may run inside it."""
    layers = adapted(model).values()
    for layer in layers:
        layer._disable_adapters = True  # peft's own switch would also set `requires_grad` of what DeepSpeed watches
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def sum_of(layer: Any) -> Tensor:
    """W + (alpha / rank) · B A of a peft `LoraLayer`, computed in float32, in W's dtype."""
    weight = layer.get_base_layer().weight.detach()
    a, b = (part[ADAPTER].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
    return torch.addmm(weight.float(), b, a, alpha=layer.scaling[ADAPTER]).to(weight.dtype)


class Merged(Mapping[str, Tensor]):
    """The `state_dict()` of a model with adapters as if it had none, their updates being part of the weights.

    A merged matrix is made when it is asked for and kept nowhere.
    """

    def __init__(self, model: nn.Module):
        self._layers = {f"{name}.weight": layer for name, layer in adapted(model).items()}
        self._state = {
            name.replace(BASE, "."): value
            for name, value in model.state_dict().items()
            if not any(part in name for part in PARTS)
        }

    def __getitem__(self, name: str) -> Tensor:
        return sum_of(self._layers[name]) if name in self._layers else self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def merged(model: nn.Module) -> Mapping[str, Tensor]:
    """The weights under a Hugging Face model's own names: its `state_dict()`, adapters merged where there are any."""
    return Merged(model) if adapted(model) else model.state_dict()


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """In this context the model has ordinary layers with merged weights, on the host: it can be saved, not run."""
    layers = adapted(model)
    for name, layer in layers.items():
        base: Any = layer.get_base_layer()
        with torch.device("meta"):
            ordinary = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
        ordinary.weight = nn.Parameter(sum_of(layer).cpu(), requires_grad=False)
        ordinary.bias = base.bias
        model.set_submodule(name, ordinary)
    try:
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)  # type: ignore[arg-type]


def save_adapter(model: Any, base: Path, folder: Path) -> None:
    """Write the adapter into `folder` in peft's format; `base` is the model folder that it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[ADAPTER]
    config.base_model_name_or_path, config.inference_mode = str(base), True
    config.save_pretrained(str(folder))
    tensors = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if any(part in name for part in PARTS)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Put the adapter of a folder into a model without one. Raises `LoraError` when it is of another model."""
    config = LoraConfig.from_pretrained(str(folder))
    inject(model, config)
    found = {name.removeprefix("base_model.model."): value for name, value in load_file(folder / WEIGHTS).items()}
    wanted = {name.replace(f".{ADAPTER}.", "."): value for name, value in model.state_dict().items()}
    wanted = {name: value for name, value in wanted.items() if any(part in name for part in PARTS)}
    if odd := {name for name in found.keys() | wanted.keys() if shape(found, name) != shape(wanted, name)}:
        raise LoraError(f"{folder} is an adapter of another model than {config.base_model_name_or_path}: {min(odd)}")
    for name, value in wanted.items():
        value.copy_(found[name])


def shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    """The shape of a tensor, None where there is none."""
    return tuple(tensors[name].shape) if name in tensors else None
