"""What every rank of RL runs: GRPO with vLLM rollouts from cached video embeddings.

    once      every video of the split through the frozen tower, into the cache
    a step    questions -> G rollouts each -> rewards -> advantages -> gradients -> weights into the rollout engine

1. Each rank holds its own rollout engine and rolls out its share of the questions; only gradients and counts are
   exchanged. No pixels and no embeddings travel.
2. Before the first step the engine's logprobs are compared with the trainer's; over the tolerance nothing is trained.
   Every later step logs the gap of the tokens it trained on.
3. Questions come in shuffled epochs and samples have seeds of their own, both functions of (seed, step): a resumed run
   goes on as if it had never stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longrl.config import FrameSettings, RlSettings
from longrl.models import qwen2_5_vl
from longrl.models.qwen2_5_vl import Student
from longrl.rollout import parity
from longrl.rollout.sampler import Sampler, make_sampler
from longrl.training import grpo
from longrl.training.advantages import group_relative
from longrl.training.checkpoint import Checkpoints, export
from longrl.training.engine import Engine, EngineSettings, join, learning_rate
from longrl.training.examples import Cycle
from longrl.training.grpo import Sample
from longrl.training.metrics import MetricsFile
from longrl.training.rank import Messages, TrainingError
from longrl.training.rewards import Reward, choice_reward, shuffled
from longrl.training.rl_prompts import Embeddings, context
from longrl.warehouse.artifacts import ArtifactRef

GATE = 4  # groups of the first step that the parity gate scores, on each rank


def main(job: dict[str, Any], messages: Messages) -> None:
    """Train from the last checkpoint to the last step, then export."""
    settings, frames = RlSettings.model_validate(job["settings"]), FrameSettings.model_validate(job["frames"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rank, ranks = join(device)
    if settings.prompts_per_step < ranks:
        raise TrainingError(f"rl.prompts_per_step is {settings.prompts_per_step}, fewer than the {ranks} ranks")
    torch.manual_seed(job["seed"])
    student = qwen2_5_vl.load(job["model"], settings.dtype, device)
    student.model.model.visual.requires_grad_(False)
    reference = qwen2_5_vl.load(job["model"], settings.dtype, device) if settings.kl else None
    tables = {name: ArtifactRef(**ref).table() for name, ref in job["tables"].items()}
    videos = Embeddings(student, job["embedding_cache"], job["frame_cache"], tables["videos"], frames)
    questions = videos.encode(tables["dataset"], messages)

    engine = Engine(
        student.model,
        EngineSettings(
            settings.zero_stage, settings.dtype, settings.betas, settings.weight_decay, settings.gradient_clipping
        ),
    )
    checkpoints = Checkpoints(Path(job["folder"]), engine)
    done = checkpoints.restore()
    longest = context(student, videos, questions, settings)
    sampler = make_sampler(settings, job["model"], longest, job["seed"], student, engine.whole)
    if done:
        sampler.push()
    loop = Loop(settings, job["seed"], student, reference, engine, sampler, videos, questions)
    metrics = MetricsFile(Path(job["folder"]), done) if rank == 0 else None
    for step in range(done + 1, settings.steps + 1):
        row = loop.step(step, gate=step == done + 1)
        if metrics:
            metrics.write(**row)
            messages.progress(step, f"reward {row['reward']:.3f}, right {row['accuracy']:.0%}")
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            checkpoints.save(step)
    export(engine, student, Path(job["model"]), Path(job["folder"]))
    if rank == 0:
        messages.send("facts", steps=settings.steps, skipped=engine.skipped, resumed_from=done)


class Loop:
    """The steps of GRPO on one rank."""

    def __init__(
        self,
        settings: RlSettings,
        seed: int,
        student: Student,
        reference: Student | None,
        engine: Engine,
        sampler: Sampler,
        videos: Embeddings,
        questions: list[dict[str, Any]],
    ) -> None:
        self.settings, self.seed, self.student, self.reference = settings, seed, student, reference
        self.engine, self.sampler, self.videos = engine, sampler, videos
        self.cycle = Cycle(f"{seed} rl", questions)

    def step(self, step: int, gate: bool) -> dict[str, Any]:
        """One step; returns its metrics, the same on every rank. Raises `parity.ParityError` at the gate."""
        clock = [time.monotonic()]
        samples = self.roll_out(step)
        clock.append(time.monotonic())
        with self.sampler.asleep():
            if gate:
                self.check_parity(samples[:GATE])
            sums = grpo.accumulate(self.engine, self.student, self.reference, samples, self.settings)
            settings = self.settings
            rate = learning_rate(step, settings.steps, settings.learning_rate, settings.warmup, settings.decay)
            (informative,) = self.engine.total(float(sum(sample.informative for sample in samples)))
            norm = self.engine.step(rate) if informative else 0.0
        clock.append(time.monotonic())
        if norm:
            self.sampler.push()
        clock.append(time.monotonic())
        return self.metrics(step, samples, sums, rate, norm, clock)

    def roll_out(self, step: int) -> list[Sample]:
        """This rank's questions of the step, answered and judged."""
        settings, engine = self.settings, self.engine
        count = settings.prompts_per_step
        drawn = list(enumerate(self.cycle.take((step - 1) * count, count)))[engine.rank :: engine.ranks]
        base = (self.seed * 1_000_003 + step) * count
        requests = [
            self.videos.request(row, settings, (base + number) * settings.group_size % 2**31) for number, row in drawn
        ]
        rollouts = self.sampler.generate(requests)
        rewards = [
            [
                choice_reward(
                    r.text, r.finish, row["options"], row["answer"], settings.accuracy_weight, settings.format_weight
                )
                for r in group
            ]
            for (_, row), group in zip(drawn, rollouts, strict=True)
        ]
        totals = self.totals(rewards, step)
        advantages, informative = group_relative(torch.tensor(totals))
        return [
            Sample(
                row["question_id"],
                self.videos.view(row["video_id"]).plan.digest,
                requests[i],
                rollouts[i],
                rewards[i],
                advantages[i],
                bool(informative[i]),
            )
            for i, (_, row) in enumerate(drawn)
        ]

    def totals(self, rewards: list[list[Reward]], step: int) -> list[list[float]]:
        """The rewards that are learned from; under the control they are permuted over the whole batch of all ranks."""
        own = [[reward.total for reward in group] for group in rewards]
        if not self.settings.shuffle_rewards:
            return own
        everyone: list[list[list[float]]] = [[]] * self.engine.ranks
        dist.all_gather_object(everyone, own)
        mixed = iter(shuffled([x for part in everyone for group in part for x in group], f"{self.seed} {step}"))
        dealt = [[[next(mixed) for _ in group] for group in part] for part in everyone]
        return dealt[self.engine.rank]

    def check_parity(self, samples: list[Sample]) -> None:
        """The gate before the first step. Every rank checks its own engine; one that fails ends the run."""
        with self.engine.whole():
            parity.check(
                self.student,
                [sample.question_id for sample in samples],
                [sample.plan for sample in samples],
                [sample.request for sample in samples],
                [sample.rollouts for sample in samples],
                self.settings.parity_tolerance,
                self.settings.parity_mean_tolerance,
            )

    def metrics(
        self,
        step: int,
        samples: list[Sample],
        sums: grpo.Sums,
        rate: float,
        norm: float | None,
        clock: list[float],
    ) -> dict[str, Any]:
        """The step's metrics over all ranks."""
        trained = [sample for sample in samples if sample.logprobs]
        gap = None
        if trained:
            gap = parity.measure(
                [sample.question_id for sample in trained],
                [sample.rollouts for sample in trained],
                [sample.logprobs for sample in trained],
            )
        rollouts = [rollout for sample in samples for rollout in sample.rollouts]
        rewards = [reward for sample in samples for reward in sample.rewards]
        mine = {
            "responses": len(rollouts),
            "reward": sum(reward.total for reward in rewards),
            "accuracy": sum(reward.accuracy for reward in rewards),
            "format": sum(reward.format for reward in rewards),
            "length": sum(len(rollout.token_ids) for rollout in rollouts),
            "truncated": sum(rollout.finish != "stop" for rollout in rollouts),
            "zero_variance": sum(not sample.informative for sample in samples),
            "gap": gap.largest if gap else 0.0,
            "gap_sum": gap.mean * gap.tokens if gap else 0.0,
            "gap_tokens": gap.tokens if gap else 0,
            "hits": self.videos.cache.hits,
            "encoded": self.videos.encoded,
            **vars(sums),
        }
        everyone: list[dict[str, float]] = [{}] * self.engine.ranks
        dist.all_gather_object(everyone, mine)
        sum_of = {name: sum(part[name] for part in everyone) for name in mine}
        responses, tokens = sum_of["responses"], max(sum_of["tokens"], 1.0)
        return {
            "step": step,
            **{name: sum_of[name] / responses for name in ("reward", "accuracy", "format")},
            "response_length": sum_of["length"] / responses,
            "truncated": sum_of["truncated"],
            "zero_variance_groups": sum_of["zero_variance"],
            "loss": sum_of["loss"] / tokens,
            "entropy": sum_of["entropy"] / tokens,
            "kl": sum_of["kl"] / tokens if self.reference else None,
            "clip_fraction": sum_of["clipped"] / tokens,
            "importance_weight": sum_of["weight"] / tokens,
            "parity_gap": max(part["gap"] for part in everyone),
            "parity_gap_mean": sum_of["gap_sum"] / max(sum_of["gap_tokens"], 1),
            "learning_rate": rate,
            "gradient_norm": norm,
            "skipped": self.engine.skipped,
            "engine_restarts": self.sampler.restarts,
            "cache_hits": sum_of["hits"],
            "cache_encodes": sum_of["encoded"],
            "seconds_rollout": clock[1] - clock[0],
            "seconds_train": clock[2] - clock[1],
            "seconds_sync": clock[3] - clock[2],
            "seconds": time.monotonic() - clock[0],
        }
