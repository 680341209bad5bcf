"""From groups with advantages to new weights: one optimizer update a mini-batch of groups.

    groups -> (the trainer's old logprobs) -> mini-batches -> forwards of packed groups -> loss, KL -> update

How it departs from the papers' algorithms, whichever is chosen:
1. With one update a batch the old logprobs are the new ones, detached: no forward is spent on them, and clipping can't
   act. With several, the trainer computes them once, before the first.
2. Each token is weighed by the truncated ratio of the trainer's old to the sampler's probability (TIS), since rollouts
   come from another engine.
3. What a loss is a mean over (tokens, responses, ...) is counted over the mini-batch of all ranks and forwards.
4. Ranks that share sequences pool the groups they rolled out, embeddings included, and share each forward's work.
5. The prompt is computed once per group, not once per response. Groups whose gradient is zero for want of any advantage
   are counted, not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from longrl.config import RlSettings
from longrl.models.base import Student
from longrl.models.lora import without_adapter
from longrl.mrsp.prefix import Group, Scored, response_group, score
from longrl.rollout.request import Rollout
from longrl.training.algorithms import Algorithm
from longrl.training.engine import Engine
from longrl.training.losses import kl_k1, kl_k3, truncated_importance
from longrl.training.rl_rollout import Batch, Sample
from longrl.training.stopwatch import Stopwatch

TOKENS_PER_FORWARD = 16_384  # prompt and response tokens in one forward: bounds memory
KL = {"k1": kl_k1, "k3": kl_k3}


@dataclass
class Sums:
    """Sums over this rank's tokens of the loss; `loss` and `size` as the algorithm weighs them."""

    loss: float = 0.0
    size: float = 0.0
    kl: float = 0.0
    kl_tokens: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    weight: float = 0.0  # of truncated importance
    tokens: float = 0.0
    norms: list[float] = field(default_factory=list)  # of each update's gradient, before clipping


class Updater:
    """Updates the student from batches of groups; every rank calls it with its own."""

    def __init__(
        self,
        engine: Engine,
        student: Student,
        reference: Student | None,
        algorithm: Algorithm,
        settings: RlSettings,
        clock: Stopwatch,
    ):
        self.engine, self.student, self.reference = engine, student, reference
        self.algorithm, self.settings, self.clock = algorithm, settings, clock

    def update(self, batch: Batch, rate: float) -> Sums:
        """Take the batch's updates with this learning rate; fills in the `logprobs` of what was computed.

        A mini-batch in which no rank has anything to learn is no update.
        """
        parts = self.settings.updates_per_batch
        mini_batches = [self._pooled(batch.chosen[part::parts]) for part in range(parts)]
        (spare, *_) = self._pooled(batch.groups[:1])
        if parts > 1:
            self._old_logprobs([each for chosen in mini_batches for each in chosen if self._computed(each)], spare)
        sums = Sums()
        for chosen in mini_batches:
            (size,) = self.engine.total(sum(self.algorithm.size(lengths(sample)) for sample in chosen))
            computed = [sample for sample in chosen if self._computed(sample)]
            if not self._accumulate(computed, spare, size, sums):
                continue
            sums.size += size / self.engine.ranks
            with self.clock("update"):
                norm = self.engine.step(rate)
            sums.norms += [] if norm is None else [norm]
        return sums

    def _pooled(self, samples: Sequence[Sample]) -> list[Sample]:
        """What the ranks that share sequences with this one have together; this rank's own are the same objects."""
        return list(samples) if self.engine.shards is None else self.engine.shards.pool(samples)

    def _score(self, student: Student, groups: Sequence[Group], entropy: bool = False) -> Scored:
        return score(student, groups, self.settings.temperature, entropy, shards=self.engine.shards)

    def _computed(self, sample: Sample) -> bool:
        """Whether a group has a gradient."""
        return bool(self.settings.kl or sample.advantages.any())

    def _accumulate(self, samples: Sequence[Sample], spare: Sample, size: float, sums: Sums) -> bool:
        """Forward and backward of a mini-batch; returns whether there was anything on some rank.

        Every rank makes as many forwards as the rank with the most: one without groups left repeats one that weighs
        nothing.
        """
        batches = packed(sorted(samples, key=lambda sample: sample.response_tokens), TOKENS_PER_FORWARD)
        forwards = most(len(batches), self.engine.device)
        for number in range(forwards):
            groups = batches[number] if number < len(batches) else []

            def compute(groups: list[Sample] = groups) -> Tensor:
                with self.clock("forward"):
                    if not groups:
                        return flat(self._score(self.student, [group(spare, spare.rollouts)]).logprobs).sum() * 0.0
                    return self._loss(groups, sums) * self.engine.share(size)

            with self.clock("backward"):
                self.engine.loss(compute)
        return forwards > 0

    def _loss(self, samples: Sequence[Sample], sums: Sums) -> Tensor:
        """Weighted sum of the loss over the response tokens of these groups, a scalar; adds to `sums`."""
        groups = [group(sample, sample.kept) for sample in samples]
        scored = self._score(self.student, groups, entropy=True)
        new = flat(scored.logprobs)
        if self.settings.updates_per_batch == 1:
            remember(samples, scored)
        old = flat([sample.logprobs for sample in samples])
        sizes = torch.cat([lengths(sample) for sample in samples]).to(new.device)
        advantages = torch.cat([sample.advantages for sample in samples]).to(new.device)
        loss, clipped = self.algorithm.loss(new, old, advantages, sizes)
        sampler = torch.tensor([p for sample in samples for r in sample.kept for p in r.logprobs], device=new.device)
        weights = truncated_importance(old, sampler, self.settings.importance_cap)
        loss = loss * weights
        if self.reference is not None:
            with self.clock("logprob"), torch.no_grad(), without_adapter(self.reference.model):
                before = flat(self._score(self.reference, groups).logprobs)
            kl = KL[self.settings.kl_estimator](new, before)
            loss = loss + self.settings.kl * kl
            sums.kl += float(kl.detach().sum())
            sums.kl_tokens += len(new)
        loss = loss * self.algorithm.weights(sizes)
        sums.loss += float(loss.detach().sum())
        sums.clipped += float(clipped.sum())
        sums.weight += float(weights.sum())
        sums.entropy += float(flat(scored.entropy or []).sum())
        sums.tokens += len(new)
        return loss.sum()

    def _old_logprobs(self, samples: Sequence[Sample], spare: Sample) -> None:
        """The trainer's logprobs before the batch's first update; every rank makes as many forwards as the busiest."""
        batches = packed(sorted(samples, key=lambda sample: sample.response_tokens), TOKENS_PER_FORWARD)
        with self.clock("logprob"):
            for number in range(most(len(batches), self.engine.device)):
                seen = batches[number] if number < len(batches) else []
                groups = [group(sample, sample.kept) for sample in seen] or [group(spare, spare.rollouts)]
                scored = self.engine.look(partial(self._score, self.student, groups))
                if seen:
                    remember(seen, scored)


def remember(samples: Sequence[Sample], scored: Scored) -> None:
    """Keep the logprobs of these samples' responses, detached."""
    for sample, rows in zip(samples, scored.logprobs, strict=True):
        sample.logprobs = [row.detach() for row in rows]


def group(sample: Sample, rollouts: Sequence[Rollout]) -> Group:
    """The prompt and these responses, ready to be scored."""
    return response_group(sample.request.prompt, sample.request.embeds, [rollout.token_ids for rollout in rollouts])


def lengths(sample: Sample) -> Tensor:
    """Tokens of each kept response (R,)."""
    return torch.tensor([len(rollout.token_ids) for rollout in sample.kept])


def packed(samples: Sequence[Sample], tokens: int) -> list[list[Sample]]:
    """Groups in order, as many to a batch as fit into `tokens`, at least one."""
    batches: list[list[Sample]] = []
    room = 0
    for sample in samples:
        if not batches or sample.forward_tokens > room:
            batches.append([])
            room = tokens
        batches[-1].append(sample)
        room -= sample.forward_tokens
    return batches


def flat(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """All tokens of all responses of all groups, in order."""
    return torch.cat([row for group in rows for row in group])


def most(count: int, device: torch.device) -> int:
    """The largest of all ranks' counts."""
    tensor = torch.tensor(count, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
