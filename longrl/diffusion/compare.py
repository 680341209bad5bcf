"""Stage `compare`: held-out prompts drawn by the generator before and after RL, with the same seeds.

    <artifact>/drawn/<model>/<prompt_id>-<sample>.png | .mp4      and a row for each: rewards, diversity

Sample s of a prompt begins with the same noise in both models and follows the ODE, so what differs between two pictures
side by side is the generator alone.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from longrl.config import CompareSettings, GenerateRlSettings, GeneratorSettings
from longrl.diffusion.rewards import code
from longrl.progress import Progress
from longrl.training.launch import launch
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

if TYPE_CHECKING:
    from longrl.training.rank import Messages

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

            launch("longrl.diffusion.compare", job, 1, draft.folder, listen)
        rows = [json.loads(path.read_text()) for path in sorted((draft.folder / ".rows").glob("*.json"))]
        draft.write(pl.DataFrame([row for group in rows for row in group], schema=schemas.empty("compare").schema))

    shown = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames, "shift": sizes.shift}
    parts = {"settings": settings, "rewards": rl_settings.rewards, "code": digests, "seed": seed, **shown}
    inputs = {"generator": generator, "rl": rl, "prompts": prompts, "conditioning": conditioning}
    return warehouse.produce("compare", VERSION, parts, inputs, build)


def chosen(prompts: ArtifactRef, limit: int, seed: int) -> list[dict[str, Any]]:
    """The held-out prompts that are drawn; of a limit, a random choice."""
    rows = prompts.table().filter(pl.col("split") == "eval").sort("prompt_id").to_dicts()
    random.Random(f"{seed} compare").shuffle(rows)
    return rows[: limit or len(rows)]


def main(job: dict[str, Any], messages: Messages) -> None:
    """The drawing process."""
    import torch

    from longrl.diffusion.families import family_of
    from longrl.diffusion.policy import trained
    from longrl.diffusion.rewards import Rewards

    settings, sizes = CompareSettings.model_validate(job["settings"]), GeneratorSettings.model_validate(job["sizes"])
    rl_settings = GenerateRlSettings.model_validate(job["rl_settings"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline, folder = Path(job["pipeline"]), Path(job["folder"])
    family = family_of(pipeline)
    rewards = Rewards(rl_settings, device)
    dtype = getattr(torch, rl_settings.dtype)
    rows = chosen(ArtifactRef(**job["prompts"]), settings.prompts, job["seed"])
    finished = folder / ".rows"
    finished.mkdir(exist_ok=True)
    done = 0
    for model in MODELS:
        transformer = trained(family, pipeline, Path(job["rl"]) if model == "rl" else None, dtype, device)
        painter = Painter(job, settings, sizes, transformer, device)
        for row in rows:
            record = finished / f"{model}-{row['prompt_id']}.json"
            if not record.exists():
                found = painter.paint(model, row, rewards)
                for one in found:
                    if one["reward"] is None:
                        reason = f"{json.loads(one['rewards'])}"
                        messages.send("reject", item=one["file"], rule="not_finite", reason=reason)
                draft = record.with_suffix(".new")
                draft.write_text(json.dumps(found))
                draft.replace(record)
            done += 1
            messages.progress(done)
        del transformer, painter


class Painter:
    """Draws, scores and writes the samples of one prompt after another."""

    def __init__(
        self, job: dict[str, Any], settings: CompareSettings, sizes: GeneratorSettings, transformer: Any, device: str
    ):
        from longrl.diffusion.conditioning import NEGATIVE, rows_of
        from longrl.diffusion.families import family_of
        from longrl.diffusion.sampler import Velocity
        from longrl.diffusion.schedule import levels

        pipeline = Path(job["pipeline"])
        self.settings, self.folder, self.seed, self.device = settings, Path(job["folder"]), job["seed"], device
        self.words = Path(job["conditioning"])
        self.family = family_of(pipeline)
        self.shape = self.family.latent_shape(pipeline, sizes)
        self.levels = levels(
            self.family, pipeline, settings.steps, self.family.tokens(pipeline, self.shape), sizes.shift
        )
        self.velocity = Velocity(self.family, transformer, rows_of(self.words, [NEGATIVE], device), settings.guidance)
        self.autoencoder = self.family.autoencoder(pipeline, device)

    def paint(self, model: str, row: dict[str, Any], rewards: Any) -> list[dict[str, Any]]:
        """The rows of a prompt's samples; their pictures are written."""
        import numpy as np

        from longrl.diffusion.rollout import spread

        pixels = np.concatenate(
            [
                self._draw(row["prompt_id"], range(start, min(start + self.settings.batch, self.settings.samples)))
                for start in range(0, self.settings.samples, self.settings.batch)
            ]
        )
        scores = rewards(pixels, [row["prompt"]] * len(pixels))
        distances = spread(pixels)
        found = []
        for sample, picture in enumerate(pixels):
            total = float(scores.total[sample])
            own = {name: float(values[sample]) for name, values in scores.parts.items()}
            found.append(
                {
                    "model": model,
                    "prompt_id": row["prompt_id"],
                    "prompt": row["prompt"],
                    "sample": sample,
                    "file": self._write(model, f"{row['prompt_id']}-{sample}", picture),
                    "reward": total if np.isfinite(total) else None,
                    "rewards": json.dumps(own),
                    "diversity": float(distances[sample]),
                }
            )
        return found

    def _draw(self, prompt_id: str, samples: range) -> Any:
        import torch

        from longrl.diffusion.conditioning import rows_of
        from longrl.diffusion.rollout import as_pictures
        from longrl.diffusion.sampler import draw, one_noise, seeded

        like = torch.empty(self.shape, device=self.device)
        number = int(prompt_id[:12], 16)
        noise = torch.stack([one_noise(like, seeded(self.seed, number, sample)) for sample in samples])
        words = rows_of(self.words, [prompt_id] * len(samples), self.device)
        with torch.no_grad():
            drawn = draw(self.velocity, noise, words, self.levels)
            return as_pictures(self.family.decode(self.autoencoder, drawn.final))

    def _write(self, model: str, name: str, picture: Any) -> str:
        """A picture (F, H, W, 3) in 0..1 as a PNG or a clip; returns its name within the artifact."""
        import numpy as np
        from PIL import Image

        from longrl.teachers.pictures import mp4

        frames = (picture * 255).round().astype(np.uint8)
        file = Path("drawn") / model / f"{name}.{'mp4' if len(frames) > 1 else 'png'}"
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(frames) > 1:
            path.write_bytes(mp4(frames, len(frames) / self.settings.fps, quality=12))
        else:
            Image.fromarray(frames[0]).save(path)
        return str(file)
