"""Stage `flowgrpo`: RL of a generator. This is the Prefect side: it imports no torch."""

from __future__ import annotations

from typing import Any

from longrl.config import UNTRACKED, GenerateRlSettings, GeneratorSettings, TrackingSettings
from longrl.diffusion.rewards import code
from longrl.diffusion.training import train
from longrl.warehouse.artifacts import ArtifactRef, Warehouse

VERSION = 1


def flowgrpo(
    settings: GenerateRlSettings,
    sizes: GeneratorSettings,
    generator: ArtifactRef,
    prompts: ArtifactRef,
    conditioning: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
    tracking: TrackingSettings = UNTRACKED,
) -> ArtifactRef:
    """Train on the split train: `lora/` or `transformer/` holds the result, `metrics.jsonl` a line per step.

    The code of one's own rewards is part of the key. Raises `RewardError` when there is no such code, and
    `TrainingError` with the rank's own words or the end of its log. Run again, a killed stage goes on from its last
    checkpoint.
    """
    digests = code(settings)
    shown: dict[str, Any] = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames, "shift": sizes.shift}
    parts = shown | ({"rewards": digests} if digests else {})
    inputs = {"generator": generator, "prompts": prompts, "conditioning": conditioning}
    return train("flowgrpo", VERSION, settings, sizes, inputs, warehouse, seed, tracking, parts)
