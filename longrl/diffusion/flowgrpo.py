"""Stage `flowgrpo`: RL of a generator. This is the Prefect side: it imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from longrl.config import UNTRACKED, GenerateRlSettings, GeneratorSettings, TrackingSettings
from longrl.diffusion.rewards import code
from longrl.training.sft import run_ranks
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

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

    def build(draft: Draft) -> None:
        job = {
            "settings": settings.model_dump(mode="json"),
            "sizes": sizes.model_dump(mode="json"),
            "pipeline": str(generator.file("pipeline")),
            "prompts": asdict(prompts),
            "conditioning": conditioning.path,
            "folder": str(draft.folder),
            "seed": seed,
        }
        run_ranks("longrl.diffusion.flowgrpo_loop", job, settings, draft, "flowgrpo", settings.steps, tracking)

    shown = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames, "shift": sizes.shift}
    parts: dict[str, Any] = {"settings": settings, "seed": seed, **shown}
    if digests:
        parts["rewards"] = digests
    inputs = {"generator": generator, "prompts": prompts, "conditioning": conditioning}
    return warehouse.produce("flowgrpo", VERSION, parts, inputs, build)
