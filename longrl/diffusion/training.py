"""What `flowmatch` and `flowgrpo` have in common: ranks that train a generator. It imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from longrl.config import FlowMatchingSettings, GenerateRlSettings, GeneratorSettings, TrackingSettings
from longrl.training.sft import run_ranks
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse


def train(
    stage: str,
    version: int,
    settings: FlowMatchingSettings | GenerateRlSettings,
    sizes: GeneratorSettings,
    inputs: dict[str, ArtifactRef],
    warehouse: Warehouse,
    seed: int,
    tracking: TrackingSettings,
    parts: dict[str, Any],
) -> ArtifactRef:
    """Run `longrl.diffusion.<stage>_loop` in ranks on `inputs`: `generator`, `prompts`, `conditioning`.

    `parts` are what else the artifact's key depends on, beside settings, seed and inputs.
    """

    def build(draft: Draft) -> None:
        job = {
            "settings": settings.model_dump(mode="json"),
            "sizes": sizes.model_dump(mode="json"),
            "pipeline": str(inputs["generator"].file("pipeline")),
            "prompts": asdict(inputs["prompts"]),
            "conditioning": inputs["conditioning"].path,
            "folder": str(draft.folder),
            "seed": seed,
        }
        run_ranks(f"longrl.diffusion.{stage}_loop", job, settings, draft, stage, settings.steps, tracking)

    return warehouse.produce(stage, version, {"settings": settings, "seed": seed} | parts, inputs, build)
