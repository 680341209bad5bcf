"""From questions to groups that can be learned from: rollouts, rewards, dynamic sampling, advantages.

    questions -> G rollouts each -> rewards -> (groups with equal rewards are replaced, in bounded rounds) -> advantages

Each rank rolls out its share of every round and sees the rewards of all, so that what is normalised over the batch, and
what is decided about it, is the same on every rank. No pixels, no embeddings and no tokens travel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from longrl.config import RlSettings
from longrl.rollout.request import Request, Rollout
from longrl.training.algorithms import Algorithm, varied
from longrl.training.examples import Cycle
from longrl.training.rewards import Judged, Response, Rewards, shuffled
from longrl.training.stopwatch import Stopwatch
from longrl.video.views import View, digest_of


class Sampler(Protocol):
    """What rolls out: `longrl.rollout.sampler.Sampler`, which all ranks call together."""

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]: ...


class Prompts(Protocol):
    """What turns questions into requests: `longrl.training.rl_prompts.Embeddings`."""

    def views(self, row: dict[str, Any]) -> tuple[View, ...]: ...

    def request(self, row: dict[str, Any], settings: RlSettings, seed: int) -> Request: ...


@dataclass
class Sample:
    """A question's group: what was asked of the engine, what it answered, what that earned.

    `totals` are the rewards to learn from, None for a response that is left out of loss and baseline.
    """

    question_id: str
    plan: str
    request: Request
    rollouts: list[Rollout]
    judged: list[Judged]
    totals: list[float | None]
    advantages: Tensor = field(default_factory=lambda: torch.zeros(0))  # of the kept responses, (R,)
    logprobs: list[Tensor] = field(default_factory=list)  # the trainer's, of the kept responses, once computed

    @property
    def finite(self) -> bool:
        """Whether no reward is NaN or infinite."""
        return all(total is None or math.isfinite(total) for total in self.totals)

    @property
    def unlike(self) -> bool:
        """Whether its rewards tell responses from one another."""
        return self.finite and bool(varied(*tensors([self.totals])))

    @property
    def kept(self) -> list[Rollout]:
        """The responses in loss and baseline."""
        return [rollout for rollout, total in zip(self.rollouts, self.totals, strict=True) if total is not None]

    @property
    def response_tokens(self) -> int:
        return sum(len(rollout.token_ids) for rollout in self.kept)

    @property
    def forward_tokens(self) -> int:
        return len(self.request.prompt) + self.response_tokens


@dataclass
class Batch:
    """A step's groups on this rank, and counts over all ranks."""

    groups: list[Sample]  # all that were rolled out
    chosen: list[Sample]  # those in the loss, with their advantages
    prompts: int = 0  # questions rolled out
    refills: int = 0  # extra rounds
    unlike: int = 0  # groups whose rewards differ
    equal: int = 0  # groups whose rewards are equal, or of which fewer than two responses are kept
    not_finite: int = 0  # groups with a reward that is NaN or infinite
    teaching: int = 0  # groups with an advantage other than 0


class Collector:
    """Collects the groups of each step. `position` counts the questions drawn so far: a resumed run sets it."""

    def __init__(
        self,
        settings: RlSettings,
        seed: int,
        algorithm: Algorithm,
        questions: Cycle,
        prompts: Prompts,
        sampler: Sampler,
        rewards: Rewards,
        clock: Stopwatch,
    ):
        self.settings, self.seed, self.algorithm, self.questions = settings, seed, algorithm, questions
        self.prompts, self.sampler, self.rewards, self.clock = prompts, sampler, rewards, clock
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.position = 0

    def collect(self, step: int) -> Batch:
        """Roll out the step's questions, and others in place of groups without a difference while rounds are left."""
        batch = Batch([], [])
        missing = self.settings.prompts_per_step
        for round_ in range(1 + self.settings.refills):
            batch.groups += self._round(step, round_, missing)
            batch.prompts += missing
            batch.refills = round_
            self._count(batch)
            missing = self.settings.prompts_per_step - batch.unlike
            if missing <= 0:
                break
        self._choose(batch)
        return batch

    def _round(self, step: int, round_: int, count: int) -> list[Sample]:
        """This rank's share of the next `count` questions, answered and judged."""
        settings = self.settings
        drawn = list(enumerate(self.questions.take(self.position, count)))[self.rank :: self.ranks]
        self.position += count
        base = (self.seed * 1_000_003 + 499_979 * round_ + step) * settings.prompts_per_step
        with self.clock("encode"):
            requests = [
                self.prompts.request(row, settings, (base + number) * settings.group_size % 2**31)
                for number, row in drawn
            ]
        with self.clock("rollout"):
            rollouts = self.sampler.generate(requests)
        with self.clock("reward"):
            responses = [
                response(row, rollout, settings.max_tokens)
                for (_, row), group in zip(drawn, rollouts, strict=True)
                for rollout in group
            ]
            judged = in_groups(self.rewards(responses), settings.group_size)
            totals = self._totals(judged, f"{self.seed} {step}" + (f" {round_}" if round_ else ""))
        return [
            Sample(row["question_id"], digest_of(self.prompts.views(row)), request, group, earned, total)
            for (_, row), request, group, earned, total in zip(drawn, requests, rollouts, judged, totals, strict=True)
        ]

    def _totals(self, judged: list[list[Judged]], seed: str) -> list[list[float | None]]:
        """The rewards to learn from; under the control they are permuted over the whole round of all ranks."""
        own = [[one.total for one in group] for group in judged]
        if not self.settings.shuffle_rewards:
            return own
        everyone = gathered(own)
        mixed = shuffled([total for part in everyone for group in part for total in group], seed)
        before = sum(len(group) for part in everyone[: self.rank] for group in part)
        size = self.settings.group_size
        return in_groups(mixed[before : before + len(own) * size], size)

    def _count(self, batch: Batch) -> None:
        """Fill in the counts of all ranks' groups."""
        groups = batch.groups
        mine = len(groups), sum(sample.finite for sample in groups), sum(sample.unlike for sample in groups)
        everything, usable, batch.unlike = (sum(column) for column in zip(*gathered(mine), strict=True))
        batch.equal, batch.not_finite = usable - batch.unlike, everything - usable

    def _choose(self, batch: Batch) -> None:
        """Choose the groups to learn from and give them their advantages, computed over those of all ranks."""
        drops = self.algorithm.drops_equal or self.settings.refills
        chosen = [sample for sample in batch.groups if (sample.unlike if drops else sample.finite and sample.kept)]
        everyone = gathered([sample.totals for sample in chosen])
        totals = list(chain.from_iterable(everyone))
        if not totals:
            return
        rewards, kept = tensors(totals)
        advantages = self.algorithm.advantages(rewards, kept)
        batch.teaching = int((advantages != 0).any(1).sum())
        start = sum(len(part) for part in everyone[: self.rank])
        for row, sample in enumerate(chosen, start):
            sample.advantages = advantages[row][kept[row]]
        batch.chosen = chosen


def response(row: dict[str, Any], rollout: Rollout, limit: int) -> Response:
    """A rollout as rewards see it."""
    return Response(
        text=rollout.text,
        finish=rollout.finish,
        tokens=len(rollout.token_ids),
        limit=limit,
        kind=row["kind"],
        question=row["question"],
        options=tuple(row["options"]),
        gold=row["answer"],
    )


def tensors(totals: Sequence[Sequence[float | None]]) -> tuple[Tensor, Tensor]:
    """Rewards (N, G), float32, and which are there (N, G), bool.

    >>> tensors([[0.5, None]])
    (tensor([[0.5000, 0.0000]]), tensor([[ True, False]]))
    """
    rewards = torch.tensor([[0.0 if total is None else total for total in group] for group in totals])
    return rewards, torch.tensor([[total is not None for total in group] for group in totals])


def in_groups(values: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive values, `size` to a group."""
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


def gathered(value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
