"""What every rank of `flowmatch` runs: flow matching of a tiny transformer on rendered pictures or clips.

    mean |v(x_t, t, prompt) - (e - x_0)|²,   x_t = (1 - t) x_0 + t e,   t the sigmoid of a normal number, shifted

Source: rectified flow with logit-normal levels (Esser et al., arXiv:2403.03206, sections 2 and 3.1). Before it latents
are given mean 0 and deviation 1 by what is written into the autoencoder's configuration. Pictures are functions of
(seed, step, place in the batch), noise of (seed, step, rank): a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from longrl.config import FlowMatchingSettings, GeneratorSettings
from longrl.diffusion import world
from longrl.diffusion.encoded import NEGATIVE, rows_of
from longrl.diffusion.families import Family, family_of
from longrl.diffusion.sampler import seeded
from longrl.diffusion.tiny import SHIFT
from longrl.models.student import copy_folder
from longrl.training.checkpoint import Checkpoints
from longrl.training.engine import Engine, join, learning_rate
from longrl.training.metrics import MetricsFile
from longrl.training.rank import Messages
from longrl.warehouse.artifacts import ArtifactRef

SCALES = 64  # pictures from which the latents' scale is taken


def main(job: dict[str, Any], messages: Messages) -> None:
    """Train from the last checkpoint to the last step, then write the whole pipeline."""
    settings = FlowMatchingSettings.model_validate(job["settings"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rank, ranks = join(device)
    torch.manual_seed(job["seed"])
    folder, pipeline, words = Path(job["folder"]), Path(job["pipeline"]), Path(job["conditioning"])
    family = family_of(pipeline)
    pictures = Pictures(job, rank, ranks)
    autoencoder = family.autoencoder(pipeline, device)
    pixels, _ = pictures.batch(0, SCALES, device, share=False)
    with torch.no_grad():
        family.rescale(autoencoder, family.compress(autoencoder, pixels))
    negative = rows_of(words, [NEGATIVE], device)
    transformer = family.transformer(pipeline, torch.float32, device).train()
    engine = Engine(transformer, settings)
    checkpoints = Checkpoints(folder, engine, messages.warn)
    done = checkpoints.restore()
    metrics = MetricsFile(folder, done) if rank == 0 else None

    def loss_of(step: int) -> Tensor:
        pixels, names = pictures.batch(step, settings.batch, device)
        with torch.no_grad():
            latents = family.compress(autoencoder, pixels)
        draws = seeded(job["seed"], step, rank)
        taught = rows_of(words, names, device)
        dropped = (torch.rand(len(names), generator=draws) < settings.unconditional).to(device)
        for name, rows in taught.items():
            mask = dropped.view(-1, *[1] * (rows.ndim - 1))
            taught[name] = torch.where(mask, negative[name].to(rows), rows)
        return flow_matching_loss(family, transformer, latents, taught, draws)

    for step in range(done + 1, settings.steps + 1):
        rate = learning_rate(step, settings.steps, settings.learning_rate, settings.warmup, settings.decay)
        local = engine.loss(lambda step=step: loss_of(step))  # type: ignore[misc]
        norm = engine.step(rate)
        (loss,) = engine.total(local / engine.ranks)
        if metrics:
            metrics.write(step=step, loss=loss, gradient_norm=norm, learning_rate=rate)
            messages.progress(step, f"loss {loss:.3f}")
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            checkpoints.save(step)
    with engine.whole():
        if rank == 0:
            copy_folder(pipeline, folder / "pipeline")
            for part, model in (("vae", autoencoder), ("transformer", transformer)):
                for path in (folder / "pipeline" / part).iterdir():
                    path.unlink()  # a hard link to the file of the generator before
                model.save_pretrained(folder / "pipeline" / part)
        torch.distributed.barrier()


def flow_matching_loss(
    family: Family, transformer: nn.Module, latents: Tensor, words: dict[str, Tensor], draws: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity at random levels, a scalar."""
    noise = torch.randn(latents.shape, generator=draws).to(latents)
    t = torch.sigmoid(torch.randn(len(latents), generator=draws)).to(latents)
    t = SHIFT * t / (1 + (SHIFT - 1) * t)
    spread = t.view(-1, *[1] * (latents.ndim - 1))
    found = family.velocity(transformer, (1 - spread) * latents + spread * noise, t, words)
    return (found - (noise - latents)).square().mean()


class Pictures:
    """Rendered pictures or clips of the training prompts."""

    def __init__(self, job: dict[str, Any], rank: int, ranks: int):
        self.sizes, self.seed = GeneratorSettings.model_validate(job["sizes"]), job["seed"]
        self.rank, self.ranks = rank, ranks
        self.rows = ArtifactRef(**job["prompts"]).table().filter(pl.col("split") == "train")

    def batch(self, step: int, count: int, device: str, share: bool = True) -> tuple[Tensor, list[str]]:
        """This rank's share of a step's pixels (B, F, 3, H, W), and the ids of their prompts."""
        clips, names = [], []
        places = range(self.rank, count, self.ranks) if share else range(count)
        for place in places:
            draws = np.random.default_rng([self.seed, step, place])
            row = self.rows.row(int(draws.integers(self.rows.height)), named=True)
            scene = world.read(row["prompt"])
            assert scene is not None
            clips.append(world.render(scene, self.sizes.frames, self.sizes.height, self.sizes.width, draws))
            names.append(row["prompt_id"])
        return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).to(device), names
