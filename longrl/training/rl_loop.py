"""What every rank of RL runs: policy gradients with vLLM rollouts from cached video embeddings.

    once      every video of the split through the frozen tower, into the cache
    a step    questions -> G rollouts each -> rewards -> advantages -> gradients -> weights into the rollout engine

1. Each rank holds its own rollout engine and rolls out its share of the questions; only gradients, rewards and counts
   are exchanged. No pixels and no embeddings travel, unless ranks share sequences.
2. Before the first step the engine's logprobs are compared with the trainer's; over the tolerance nothing is trained.
   Every later step logs the gap of the tokens it trained on.
3. The order of questions is a function of (seed, epoch) and samples have seeds of their own, functions of (seed, step,
   round): a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from longrl.config import FrameSettings, RlSettings
from longrl.models import families
from longrl.models.lora import add_lora
from longrl.mrsp.activations import limit_activations
from longrl.mrsp.ulysses import make_shards
from longrl.rollout import parity
from longrl.rollout.sampler import Sampler, make_sampler
from longrl.training import rl_metrics
from longrl.training.algorithms import algorithm
from longrl.training.checkpoint import Checkpoints, export
from longrl.training.curriculum import curriculum
from longrl.training.engine import Engine, join, learning_rate
from longrl.training.metrics import MetricsFile
from longrl.training.rank import Messages, TrainingError
from longrl.training.rewards import Rewards
from longrl.training.rl_prompts import Embeddings, prompt_lengths
from longrl.training.rl_rollout import Batch, Collector, Sample
from longrl.training.rl_update import Updater
from longrl.training.stopwatch import Stopwatch
from longrl.warehouse.artifacts import ArtifactRef

GATE = 4  # groups of the first step that the parity gate scores, on each rank


def main(job: dict[str, Any], messages: Messages) -> None:
    """Train from the last checkpoint to the last step, then export."""
    settings, frames = RlSettings.model_validate(job["settings"]), FrameSettings.model_validate(job["frames"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rank, ranks = join(device)
    if settings.prompts_per_step < ranks:
        raise TrainingError(f"rl.prompts_per_step is {settings.prompts_per_step}, fewer than the {ranks} ranks")
    rewards = Rewards(settings)
    torch.manual_seed(job["seed"])
    student = families.load(job["model"], settings.dtype, device)
    student.freeze("tower", "projector")
    shards = make_shards(settings.sequence_parallel, student.heads)
    limit_activations(student, settings.gradient_checkpointing, settings.mlp_tiles)
    add_lora(student, settings.lora)
    reference = None
    if settings.kl:  # the student as it is now: without its adapter, or a copy
        reference = student if settings.lora.rank else families.load(job["model"], settings.dtype, device)
    tables = {name: ArtifactRef(**ref).table() for name, ref in job["tables"].items()}
    clock = Stopwatch()
    videos = Embeddings(student, job["embedding_cache"], job["frame_cache"], tables["videos"], frames)
    with clock("encode"):
        questions = videos.encode(tables["dataset"], messages, judged=rewards.open_too)
    lengths = prompt_lengths(videos, questions)
    cycle = curriculum(settings.order, f"{job['seed']} rl", questions, lengths, settings.prompts_per_step)

    engine = Engine(student.model, settings, shards)
    checkpoints = Checkpoints(Path(job["folder"]), engine, messages.warn)
    done = checkpoints.restore()
    context = -(-(max(lengths) + settings.max_tokens) // 128) * 128
    sampler = make_sampler(settings, job["model"], context, job["seed"], student, engine.whole)
    if done:
        sampler.push()
    chosen = algorithm(settings)
    collector = Collector(settings, job["seed"], chosen, cycle, videos, sampler, rewards, clock)
    updater = Updater(engine, student, reference, chosen, settings, clock)
    loop = Loop(settings, engine, sampler, videos, collector, updater, clock)
    loop.resume(checkpoints.notes)
    metrics = MetricsFile(Path(job["folder"]), done) if rank == 0 else None
    step, ended_early = done, loop.patience.verdict
    while step < settings.steps and not ended_early:
        step += 1
        row = loop.step(step, gate=step == done + 1)
        if metrics:
            metrics.write(**row)
            messages.progress(step, told(row))
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            checkpoints.save(step, **loop.notes())
        ended_early = loop.patience.verdict
    if ended_early and rank == 0:
        messages.warn(f"RL ends at step {step} of {settings.steps}: {ended_early}")
    export(engine, student, Path(job["model"]), Path(job["folder"]), settings.lora)
    if rank == 0:
        judge = {"judge": rewards.judge.model} if rewards.judge else {}
        told_once = {"skipped": engine.skipped, "checkpoints_failed": checkpoints.failed, "resumed_from": done}
        messages.send("facts", steps=step, ended_early=ended_early, **told_once, **judge)


def told(row: dict[str, Any]) -> str:
    """A step in a few words."""
    words = {"reward": "reward {:.3f}", "accuracy": "right {:.0%}"}
    return ", ".join(form.format(row[name]) for name, form in words.items() if row[name] is not None)


class Loop:
    """The steps of RL on one rank."""

    def __init__(
        self,
        settings: RlSettings,
        engine: Engine,
        sampler: Sampler,
        videos: Embeddings,
        collector: Collector,
        updater: Updater,
        clock: Stopwatch,
    ) -> None:
        self.settings, self.engine, self.sampler, self.videos = settings, engine, sampler, videos
        self.collector, self.updater, self.clock = collector, updater, clock
        self.patience = Patience(settings.patience)

    def resume(self, notes: dict[str, Any]) -> None:
        """Go on where a checkpoint with these notes was made."""
        self.collector.position = notes.get("position", 0)
        self.patience.idle = notes.get("idle", 0)

    def notes(self) -> dict[str, Any]:
        """What `resume` needs."""
        return {"position": self.collector.position, "idle": self.patience.idle}

    def step(self, step: int, gate: bool) -> dict[str, Any]:
        """One step; returns its metrics. Raises `parity.ParityError` at the gate."""
        settings = self.settings
        rate = learning_rate(step, settings.steps, settings.learning_rate, settings.warmup, settings.decay)
        with self.clock("other"):
            batch = self.collector.collect(step)
            with self.sampler.asleep():
                if gate:
                    self.check_parity(batch.groups[:GATE])
                sums = self.updater.update(batch, rate)
            if sums.norms:
                with self.clock("sync"):
                    self.sampler.push()
            if not batch.unlike + batch.equal:  # every group has a reward that is no number
                self.engine.skip()
            self.patience.after(batch)
        cache = {"hits": self.videos.cache.hits, "encoded": self.videos.encoded}
        row = rl_metrics.row(batch, sums, self.clock.taken(), cache)
        counts = {"skipped": self.engine.skipped, "engine_restarts": self.sampler.restarts}
        return {"step": step, **row, "learning_rate": rate, **counts}

    def check_parity(self, samples: list[Sample]) -> None:
        """The gate before the first step. Every rank checks its own engine; one that fails ends the run."""
        check = partial(
            parity.check,
            self.updater.student,
            [sample.question_id for sample in samples],
            [sample.plan for sample in samples],
            [sample.request for sample in samples],
            [sample.rollouts for sample in samples],
            self.settings.parity_tolerance,
            self.settings.parity_mean_tolerance,
        )
        self.engine.look(check)


class Patience:
    """Counts steps in a row in which nothing could be learned; after `limit` of them, `verdict` says so."""

    def __init__(self, limit: int):
        self.limit, self.idle = limit, 0

    def after(self, batch: Batch) -> None:
        """Count a step whose rewards told no response from another; one that taught something starts anew."""
        if batch.teaching:
            self.idle = 0
        elif batch.equal:
            self.idle += 1

    @property
    def verdict(self) -> str:
        """Why RL should end and what to do about it; empty while there is hope."""
        if self.idle < self.limit:
            return ""
        return (
            f"in {self.idle} steps in a row all responses to a question earned the same reward, so nothing can be "
            "learned. Look at accuracy in metrics.jsonl: near 1, the questions are too easy, near 0, too hard. Set "
            "difficulty.samples to leave such questions out, raise rl.temperature or rl.group_size, change rl.rewards, "
            "or raise rl.patience to go on for longer"
        )
