"""Stage `compare`: held-out prompts drawn by the generator before and after RL, with the same seeds.

    <artifact>/drawn/<model>/<prompt_id>-<sample>.png | .mp4      and a row for each: rewards, diversity

Sample s of a prompt begins with the same noise in both models and follows the ODE, so what differs between two pictures
side by side is the generator alone. This is the Prefect side: it imports no torch.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

import polars as pl

from longrl.config import CompareSettings, GenerateRlSettings, GeneratorSettings
from longrl.diffusion.rewards import code
from longrl.progress import Progress
from longrl.training.launch import launch
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 1
MODELS = ("base", "rl")


def compare(
    settings: CompareSettings,
    rl_settings: GenerateRlSettings,
    sizes: GeneratorSettings,
    generator: ArtifactRef,
    rl: ArtifactRef,
    prompts: ArtifactRef,
    conditioning: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
) -> ArtifactRef:
    """Draw the split eval with `generator` and with `rl`, and score both with the rewards of `rl_settings`.

    Prompts that are finished are kept when a run is killed. A reward that is no finite number is null, and its sample
    a reject as well.
    """
    digests = code(rl_settings)

    def build(draft: Draft) -> None:
        job = {
            "settings": settings.model_dump(mode="json"),
            "rl_settings": rl_settings.model_dump(mode="json"),
            "sizes": sizes.model_dump(mode="json"),
            "pipeline": str(generator.file("pipeline")),
            "rl": rl.path,
            "prompts": asdict(prompts),
            "conditioning": conditioning.path,
            "folder": str(draft.folder),
            "seed": seed,
        }
        count = len(chosen(prompts, settings.prompts, seed))
        with Progress("compare", len(MODELS) * count) as progress:

            def listen(message: dict[str, Any]) -> None:
                kind = message.pop("kind")
                if kind == "progress":
                    progress.update(message["done"])
                elif kind == "reject":
                    draft.reject(message["item"], message["rule"], message["reason"])

            launch("longrl.diffusion.compare_loop", job, 1, draft.folder, listen)
        rows = [json.loads(path.read_text()) for path in sorted((draft.folder / ".rows").glob("*.json"))]
        draft.write(pl.DataFrame([row for group in rows for row in group], schema=schemas.empty("compare").schema))

    shown = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames, "shift": sizes.shift}
    asked = {"rewards": rl_settings.rewards, "question": rl_settings.judge_question, "code": digests}
    parts = {"settings": settings, "seed": seed, **asked, **shown}
    inputs = {"generator": generator, "rl": rl, "prompts": prompts, "conditioning": conditioning}
    return warehouse.produce("compare", VERSION, parts, inputs, build)


def chosen(prompts: ArtifactRef, limit: int, seed: int) -> list[dict[str, Any]]:
    """The held-out prompts that are drawn; of a limit, a random choice."""
    rows = prompts.table().filter(pl.col("split") == "eval").sort("prompt_id").to_dicts()
    random.Random(f"{seed} compare").shuffle(rows)
    return rows[: limit or len(rows)]
