"""The drawing process of `compare`: held-out prompts, one after another, by the generator before and after RL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from longrl.config import CompareSettings, GenerateRlSettings, GeneratorSettings
from longrl.diffusion.compare import MODELS, chosen
from longrl.diffusion.encoded import NEGATIVE, rows_of
from longrl.diffusion.families import family_of
from longrl.diffusion.policy import trained
from longrl.diffusion.rewards import Rewards
from longrl.diffusion.rollout import as_pictures, spread
from longrl.diffusion.sampler import Velocity, draw, one_noise, seeded
from longrl.diffusion.schedule import levels
from longrl.teachers.pictures import mp4
from longrl.training.rank import Messages
from longrl.warehouse.artifacts import ArtifactRef

Picture = npt.NDArray[np.float32]  # (F, H, W, 3) in 0..1


def main(job: dict[str, Any], messages: Messages) -> None:
    """Draw and score; a prompt's rows are written when it is finished, and found again by a later run."""
    settings = CompareSettings.model_validate(job["settings"])
    rl_settings = GenerateRlSettings.model_validate(job["rl_settings"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline, folder = Path(job["pipeline"]), Path(job["folder"])
    family = family_of(pipeline)
    rewards = Rewards(rl_settings, device)
    rows = chosen(ArtifactRef(**job["prompts"]), settings.prompts, job["seed"])
    (folder / ".rows").mkdir(exist_ok=True)
    done = 0
    for model in MODELS:
        rl = Path(job["rl"]) if model == "rl" else None
        painter = Painter(job, trained(family, pipeline, rl, getattr(torch, rl_settings.dtype), device), device)
        for row in rows:
            record = folder / ".rows" / f"{model}-{row['prompt_id']}.json"
            if not record.exists():
                found = painter.paint(model, row, rewards)
                for one in found:
                    if one["reward"] is None:
                        messages.send("reject", item=one["file"], rule="not_finite", reason=one["rewards"])
                draft = record.with_suffix(".new")
                draft.write_text(json.dumps(found))
                draft.replace(record)
            done += 1
            messages.progress(done)


class Painter:
    """Draws, scores and writes the samples of one prompt after another."""

    def __init__(self, job: dict[str, Any], transformer: Any, device: str):
        sizes, pipeline = GeneratorSettings.model_validate(job["sizes"]), Path(job["pipeline"])
        self.settings = CompareSettings.model_validate(job["settings"])
        self.folder, self.words = Path(job["folder"]), Path(job["conditioning"])
        self.seed, self.device = job["seed"], device
        self.family = family_of(pipeline)
        self.shape = self.family.latent_shape(pipeline, sizes)
        tokens = self.family.tokens(pipeline, self.shape)
        self.levels = levels(self.family, pipeline, self.settings.steps, tokens, sizes.shift)
        negative = rows_of(self.words, [NEGATIVE], device)
        self.velocity = Velocity(self.family, transformer, negative, self.settings.guidance)
        self.autoencoder = self.family.autoencoder(pipeline, device)

    def paint(self, model: str, row: dict[str, Any], rewards: Rewards) -> list[dict[str, Any]]:
        """The rows of a prompt's samples; their pictures are written."""
        count, batch = self.settings.samples, self.settings.batch
        parts = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
        pixels = np.concatenate([self._draw(row["prompt_id"], part) for part in parts])
        scores = rewards(pixels, [row["prompt"]] * len(pixels))
        return [
            {
                "model": model,
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
                "sample": sample,
                "file": self._write(model, f"{row['prompt_id']}-{sample}", pixels[sample]),
                "reward": float(total) if np.isfinite(total) else None,
                "rewards": json.dumps({name: float(values[sample]) for name, values in scores.parts.items()}),
                "diversity": float(distance),
            }
            for sample, (total, distance) in enumerate(zip(scores.total, spread(pixels), strict=True))
        ]

    def _draw(self, prompt_id: str, samples: range) -> Picture:
        """Pixels (N, F, H, W, 3) of these samples, which begin with the same noise whatever the model."""
        like = torch.empty(self.shape, device=self.device)
        number = int(prompt_id[:12], 16)
        noise = torch.stack([one_noise(like, seeded(self.seed, number, sample)) for sample in samples])
        words = rows_of(self.words, [prompt_id] * len(samples), self.device)
        with torch.no_grad():
            drawn = draw(self.velocity, noise, words, self.levels)
            return as_pictures(self.family.decode(self.autoencoder, drawn.final))

    def _write(self, model: str, name: str, picture: Picture) -> str:
        """Write a picture as PNG or a clip as mp4; returns its name within the artifact."""
        frames = (picture * 255).round().astype(np.uint8)
        file = Path("drawn") / model / f"{name}.{'mp4' if len(frames) > 1 else 'png'}"
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(frames) > 1:
            path.write_bytes(mp4(frames, len(frames) / self.settings.fps, quality=12))
        else:
            Image.fromarray(frames[0]).save(path)
        return str(file)
