"""`longrl plan` for generators: memory and matrix work of an RL step before it is run.

The transformer's parameters are counted on a model without memory (torch's meta device) built from its configuration:
that of `generator.path`, or of the published checkpoint that the path is named after, or of the tiny generator.
Activations are reckoned with what PyTorch keeps of a transformer block; nothing here has been compared with a GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from longrl.config import GenerateConfig
from longrl.errors import LongrlError
from longrl.mrsp.costs import MATRICES, Machine

GIB = 2**30
USABLE = 0.92  # share of a GPU's memory that may be planned
KEPT = (
    34  # widths of numbers that a block keeps for its backward, a token (Korthikanti et al., arXiv:2205.05198, eq. 2)
)

# Transformers of the published checkpoints, by the names of their folders; what isn't said is the class's default.
PUBLISHED: dict[str, dict[str, Any]] = {
    "stable-diffusion-3.5-medium": {
        "family": "sd3", "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "out_channels": 16, "in_channels": 16, "patch_size": 2, "pos_embed_max_size": 384, "sample_size": 128,
        "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm", "space": 8, "time": 1,
    },
    "Wan2.1-T2V-1.3B-Diffusers": {
        "family": "wan", "num_layers": 30, "attention_head_dim": 128, "num_attention_heads": 12, "ffn_dim": 8960,
        "text_dim": 4096, "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "space": 8, "time": 4,
    },
}  # fmt: skip


class GeneratorPlanError(LongrlError):
    """Nothing can be reckoned; the message says what is missing."""


@dataclass(frozen=True)
class Sizes:
    """What of a generator memory and work depend on."""

    family: str
    parameters: int
    trained: int
    layers: int
    width: int
    tokens: int  # of one sample: latents and prompt
    latents: int  # numbers of one sample


def sizes(config: GenerateConfig) -> Sizes:
    """Count the transformer of a configuration; raises `GeneratorPlanError` when there is nothing to count."""
    import torch

    from longrl.diffusion.families import FAMILIES, family_of
    from longrl.diffusion.tiny import BUILDERS, CLIP_PATCH

    path = Path(config.generator.path).expanduser()
    if config.generator.path and (path / "model_index.json").is_file():
        family = family_of(path)
        shape = family.latent_shape(path, config.generator)
        settings = json.loads((path / "transformer" / "config.json").read_text())
        with torch.device("meta"):
            transformer = family.transformer_class.from_config(settings)
        tokens = family.tokens(path, shape)
    elif not config.generator.path:
        family = FAMILIES[config.generator.family]
        pipeline = BUILDERS[family.name](config.generator, ["a prompt"])
        transformer, autoencoder = pipeline.transformer, pipeline.vae.config
        channels = autoencoder.z_dim if family.video else autoencoder.latent_channels
        shape, tokens = latents(config, 2, 1, channels, CLIP_PATCH if family.video else 2)
    else:
        if path.name not in PUBLISHED:
            raise GeneratorPlanError(
                f"generator.path={path} is not there, and its name is none of {', '.join(PUBLISHED)}, whose sizes are "
                "known; download it, or at least its model_index.json, transformer/config.json and vae/config.json"
            )
        settings = dict(PUBLISHED[path.name])
        family = FAMILIES[settings.pop("family")]
        space, time = settings.pop("space"), settings.pop("time")
        with torch.device("meta"):
            transformer = family.transformer_class(**settings)
        shape, tokens = latents(config, space, time, settings["in_channels"])
    total = sum(parameter.numel() for parameter in transformer.parameters())
    own = transformer.config
    width = own.num_attention_heads * own.attention_head_dim
    layers = own.num_layers + getattr(own, "num_single_layers", 0)
    trained = (
        adapter_numbers(transformer, family.lora_targets, config.rl.lora_rank) if config.rl.train == "lora" else total
    )
    words = config.generator.prompt_tokens * (1 if family.name != "sd3" else 2)
    return Sizes(family.name, total, trained, layers, width, tokens + words, prod(shape))


def latents(
    config: GenerateConfig, space: int, time: int, channels: int, patch: int = 2
) -> tuple[tuple[int, ...], int]:
    """Shape of a sample's latents and the tokens they make, with patches of `patch` latents a side."""
    one = config.generator
    frames = (one.frames - 1) // time + 1
    shape = (channels, frames, one.height // space, one.width // space)
    return shape, frames * (shape[2] // patch) * (shape[3] // patch)


def adapter_numbers(transformer: Any, targets: tuple[str, ...], rank: int) -> int:
    """Parameters of an adapter of this rank on the linear layers whose names end like `targets`."""
    import torch

    return sum(
        rank * (module.in_features + module.out_features)
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name == end or name.endswith(f".{end}") for end in targets)
    )


def memory(one: Sizes, config: GenerateConfig, gpus: int) -> dict[str, int]:
    """Bytes on each GPU at the fullest moment of a step, by part."""
    rl = config.rl
    s = 4 if rl.dtype == "float32" else 2
    shared = {stage: gpus if rl.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    optimizer = one.trained * (8 if s == 4 else 12)
    batch = rl.sampling.batch * (2 if rl.sampling.guidance > 1 else 1)
    block = KEPT * one.width * s // 2
    kept = one.layers * one.width * s + block if rl.gradient_checkpointing == "recompute" else one.layers * block
    return {
        "weights": one.parameters * s // shared[3],
        "reference": one.parameters * s if rl.train == "full" and rl.kl else 0,
        "gradients": one.trained * s // shared[2],
        "optimizer": optimizer // shared[1] if rl.offload == "none" else 0,
        "activations": batch * one.tokens * kept,
    }


def store_bytes(one: Sizes, config: GenerateConfig) -> int:
    """What a step's rollouts leave on the host or the disk of one rank: float32 states of the window."""
    rl = config.rl
    samples = -(-rl.prompts_per_step // rl.ranks) * rl.group_size
    return samples * (rl.sampling.window + 1) * one.latents * 4


def seconds(one: Sizes, config: GenerateConfig, machine: Machine) -> dict[str, float]:
    """Seconds of matrix products in a step, spread over all GPUs."""
    rl = config.rl
    passes = 2 if rl.sampling.guidance > 1 else 1
    samples = rl.prompts_per_step * rl.group_size * passes
    forward = samples * (2 * one.parameters * one.tokens + 4 * one.layers * one.tokens**2 * one.width)
    again = 1 if rl.gradient_checkpointing == "recompute" else 0
    backward = 1 if rl.train == "lora" else 2  # frozen weights have no gradient of their own
    rate = machine.tflops * 1e12 * MATRICES * machine.gpus
    window = rl.sampling.window
    return {
        "rollout": forward * rl.sampling.steps / rate,
        "update": forward * window * (1 + backward + again) / rate,
        "reference": forward * window / rate if rl.kl else 0.0,
    }


def plan(config: GenerateConfig, machine: Machine) -> str:
    """The plan of a recipe in words and figures; raises `GeneratorPlanError`."""
    one = sizes(config)
    parts, rl = memory(one, config, machine.gpus), config.rl
    total = sum(parts.values()) / GIB
    took = seconds(one, config, machine)
    stored = store_bytes(one, config) / GIB
    where = "on disk" if stored > rl.host_gib else "on the host"
    fits = total <= USABLE * machine.gib
    remedy = (
        "" if fits else "; lower rl.sampling.batch, set rl.gradient_checkpointing=recompute, or raise rl.zero_stage"
    )
    lines = [
        f"{one.family}: {one.parameters / 1e6:,.1f} million parameters, {one.trained / 1e6:,.2f} million trained "
        f"({rl.train}); {one.tokens:,} tokens a sample",
        f"{rl.prompts_per_step} prompts x {rl.group_size} samples, {rl.sampling.steps} steps each, "
        f"{rl.sampling.window} of them trained, on {machine.gpus} x {machine.gib:.0f} GiB, ZeRO-{rl.zero_stage}",
        "",
        "GiB on each GPU",
        *(f"  {name:<22}{size / GIB:10.3f}" for name, size in parts.items() if size),
        f"  {'total':<22}{total:10.3f}   of {machine.gib:.0f}{'' if fits else ': does not fit' + remedy}",
        "",
        f"GiB of rollouts, {where:<11} {stored:9.3f}   of each rank",
        "",
        "seconds of a step, matrix products alone",
        *(f"  {name:<22}{value:10.3f}" for name, value in took.items() if value),
        f"  {'total':<22}{sum(took.values()):10.3f}",
        "",
        f"reckoned with {machine.tflops:.4g} TFLOP/s of one large matrix product; autoencoder and rewards are left out",
    ]
    return "\n".join(lines)
