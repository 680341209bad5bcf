"""Noise levels of the denoising steps, and which of them RL samples by the SDE and trains."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

from longrl.config import SamplingSettings

if TYPE_CHECKING:
    from longrl.diffusion.families.base import Family


def levels(family: Family, folder: Path, steps: int, tokens: int, shift: float | None = None) -> list[float]:
    """Noise levels from 1 down to 0, steps + 1 of them, as the pipeline in `folder` would take them.

    `tokens` is the length of the latent sequence, on which schedulers with dynamic shifting depend; `shift` overrides
    the scheduler's own.
    """
    config = dict(FlowMatchEulerDiscreteScheduler.load_config(folder / "scheduler"))
    flow_shift = config.get("flow_shift", config.get("shift", 1.0))  # UniPC calls it flow_shift
    taken = {name: config[name] for name in DYNAMIC if name in config}
    if shift is not None:
        flow_shift, taken = shift, {}
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=flow_shift, **taken)
    options = {"mu": dynamic_shift(tokens, scheduler.config)} if scheduler.config.use_dynamic_shifting else {}
    if family.even_levels:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), **options)
    else:
        scheduler.set_timesteps(steps, **options)
    return [float(level) for level in scheduler.sigmas]


DYNAMIC = (
    "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "shift_terminal",
    "time_shift_type",
)  # fmt: skip


def dynamic_shift(tokens: int, config: Any) -> float:
    """The shift of a sequence of `tokens`: a line between the scheduler's two lengths, as in diffusers' pipelines."""
    low, high = config.base_image_seq_len, config.max_image_seq_len
    slope = (config.max_shift - config.base_shift) / (high - low)
    return slope * (tokens - low) + config.base_shift


def window(settings: SamplingSettings, seed: str) -> range:
    """The steps of one batch of rollouts that are sampled by the SDE and trained, at a random place.

    Source: MixGRPO (arXiv:2507.21802), with its window drawn anew each time, as Flow-GRPO-Fast does. The
    last step is never among them: its noise would stay in the picture.

    >>> list(window(SamplingSettings(steps=4, window=3), "any"))
    [0, 1, 2]
    """
    start = random.Random(seed).randint(settings.window_from, settings.window_end - settings.window)
    return range(start, start + settings.window)
