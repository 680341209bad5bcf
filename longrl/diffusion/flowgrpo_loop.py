"""What every rank of `flowgrpo` runs: Flow-GRPO on the prompts of the split train.

    a step    prompts -> G samples each, SDE within a window -> decode -> rewards -> advantages -> update

How it departs from the published Flow-GRPO: only a window of steps is noisy and trained, at a random place (MixGRPO,
Flow-GRPO-Fast); the last step always follows the ODE; and where prompts run out, their order is a function of (seed,
epoch). Samples have seeds of their own, functions of (seed, step, place): a resumed run goes on as if it had never
stopped. Only transformer and autoencoder are loaded; prompts come encoded.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import torch

from longrl.config import GenerateRlSettings, GeneratorSettings
from longrl.diffusion.encoded import NEGATIVE, rows_of
from longrl.diffusion.families import family_of
from longrl.diffusion.policy import Policy, export
from longrl.diffusion.rewards import Rewards
from longrl.diffusion.rollout import Batch, Drawer, Prompt, gathered
from longrl.diffusion.schedule import levels
from longrl.diffusion.store import Store
from longrl.diffusion.update import Sums, Updater
from longrl.training.checkpoint import Checkpoints
from longrl.training.engine import Engine, join, learning_rate
from longrl.training.metrics import MetricsFile
from longrl.training.rank import Messages
from longrl.training.stopwatch import Stopwatch
from longrl.warehouse.artifacts import ArtifactRef


def main(job: dict[str, Any], messages: Messages) -> None:
    """Train from the last checkpoint to the last step, then export."""
    settings = GenerateRlSettings.model_validate(job["settings"])
    sizes = GeneratorSettings.model_validate(job["sizes"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rank, _ = join(device)
    rewards = Rewards(settings, device)
    torch.manual_seed(job["seed"])
    folder, pipeline, words = Path(job["folder"]), Path(job["pipeline"]), Path(job["conditioning"])
    family = family_of(pipeline)
    policy = Policy(family, family.transformer(pipeline, getattr(torch, settings.dtype), device), settings)
    engine = Engine(policy.transformer, settings)
    policy.to(device)
    checkpoints = Checkpoints(folder, engine, messages.warn)
    done = checkpoints.restore()
    clock = Stopwatch()
    shape = family.latent_shape(pipeline, sizes)
    drawer = Drawer(
        settings,
        family,
        engine,
        family.autoencoder(pipeline, device),
        shape,
        levels(family, pipeline, settings.sampling.steps, family.tokens(pipeline, shape), sizes.shift),
        words,
        rows_of(words, [NEGATIVE], device),
        rewards,
        Store(folder / ".rollouts" / str(rank), settings.host_gib * 2**30),
        clock,
        job["seed"],
    )
    updater = Updater(drawer, policy, clock)
    prompts = Prompts(job, settings.prompts_per_step)
    metrics = MetricsFile(folder, done) if rank == 0 else None
    told: set[str] = set()
    for step in range(done + 1, settings.steps + 1):
        rate = learning_rate(step, settings.steps, settings.learning_rate, settings.warmup, settings.decay)
        with clock("other"):
            batch = drawer.collect(step, prompts.at(step))
            sums = updater.update(batch, rate)
        for name in sorted(set(batch.culprits) - told) if rank == 0 else ():
            messages.warn(f"step {step}: reward {name} is no finite number for some samples; their groups are left out")
        told |= set(batch.culprits)
        if batch.not_finite == settings.prompts_per_step:
            engine.skip()
        row = metrics_of(step, batch, sums, rate, engine, drawer.store, clock)
        if metrics:
            metrics.write(**row)
            messages.progress(step, f"reward {row['reward']:.3f}" if row["reward"] is not None else "no reward")
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            checkpoints.save(step)
    drawer.store.clear()
    export(engine, policy, folder)
    if rank == 0:
        facts = {"skipped": engine.skipped, "checkpoints_failed": checkpoints.failed, "resumed_from": done}
        messages.send("facts", steps=settings.steps, family=family.name, trained=settings.train, **facts)


class Prompts:
    """The prompts of each step: an epoch after another, each shuffled anew."""

    def __init__(self, job: dict[str, Any], count: int):
        rows = ArtifactRef(**job["prompts"]).table().filter(pl.col("split") == "train").sort("prompt_id")
        self.all = [Prompt(row["prompt_id"], row["prompt"]) for row in rows.iter_rows(named=True)]
        self.seed, self.count = job["seed"], count

    def at(self, step: int) -> list[Prompt]:
        """The prompts of step 1, 2, ..."""
        return [self._nth(number) for number in range((step - 1) * self.count, step * self.count)]

    def _nth(self, number: int) -> Prompt:
        epoch, place = divmod(number, len(self.all))
        order = list(range(len(self.all)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return self.all[order[place]]


def metrics_of(
    step: int, batch: Batch, sums: Sums, rate: float, engine: Engine, store: Store, clock: Stopwatch
) -> dict[str, Any]:
    """A step's line of metrics, over all ranks; what was not measured is None. Every rank calls it."""
    own = (
        {name: values.tolist() for name, values in batch.scores.parts.items()},
        batch.scores.total.tolist(),
        (sums.loss, sums.kl, sums.clipped, sums.items, sums.gap),
        batch.diversity,
        (store.host, store.disk),
    )
    everyone = gathered(own)
    totals = [value for _, values, *_ in everyone for value in values if value == value]
    loss, kl, clipped, items = (sum(one[2][place] for one in everyone) for place in range(4))
    parts = {name: [value for one in everyone for value in one[0][name]] for name in own[0]}
    return {
        "step": step,
        "reward": mean(totals),
        "reward_deviation": deviation(totals),
        "rewards": {name: mean(values) for name, values in parts.items()},
        "diversity": mean([one[3] for one in everyone]),
        "loss": loss / items if items else None,
        "kl": kl / items if items else None,
        "clipped": clipped / items if items else None,
        "logprob_gap": max(one[2][4] for one in everyone),
        "gradient_norm": mean(sums.norms),
        "learning_rate": rate,
        "window_start": batch.window.start,
        "zero_variance_groups": batch.equal,
        "not_finite_groups": batch.not_finite,
        "host_bytes": sum(one[4][0] for one in everyone),
        "disk_bytes": sum(one[4][1] for one in everyone),
        "skipped": engine.skipped,
        **{f"seconds_{name}": value for name, value in clock.taken().items()},
    }


def mean(values: list[float]) -> float | None:
    """A mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def deviation(values: list[float]) -> float | None:
    """The sample standard deviation, or None of less than two."""
    if len(values) < 2:
        return None
    middle = sum(values) / len(values)
    return (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
