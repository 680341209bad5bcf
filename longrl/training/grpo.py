"""GRPO's update: from rollouts with rewards to gradients.

Where it departs from the textbook (DeepSeekMath, arXiv:2402.03300):
1. One update per batch of rollouts, so the old logprobs are the new ones, detached; clipping would act only with more.
2. Each token is weighed by the truncated ratio of the trainer's to the sampler's probability (TIS), since rollouts come
   from another engine.
3. The mean is over all tokens of the global batch, not over responses: long answers aren't favoured.
4. Groups with equal rewards are left out of loss and token count, and counted.
5. The prompt is computed once per group, not once per response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from longrl.config import RlSettings
from longrl.models.qwen2_5_vl import Student
from longrl.mrsp.prefix import response_group, score
from longrl.rollout.vllm import Request, Rollout
from longrl.training.engine import Engine
from longrl.training.losses import clipped_policy_loss, kl_k3, truncated_importance
from longrl.training.rewards import Reward

TOKENS_PER_FORWARD = 16_384  # prompt and response tokens in one forward: bounds memory


@dataclass
class Sample:
    """A question's group: what was asked of the engine, what it answered, what that earned."""

    question_id: str
    plan: str
    request: Request
    rollouts: list[Rollout]
    rewards: list[Reward]
    advantages: Tensor  # (G,)
    informative: bool
    logprobs: list[Tensor] = field(default_factory=list)  # the trainer's, (R_i,) each, once computed

    @property
    def response_tokens(self) -> int:
        return sum(len(rollout.token_ids) for rollout in self.rollouts)

    @property
    def forward_tokens(self) -> int:
        prompt = self.request.prompt
        return len(prompt.head) + prompt.video_tokens + len(prompt.tail) + self.response_tokens


@dataclass
class Sums:
    """Sums over this rank's tokens of the loss."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    weight: float = 0.0  # of truncated importance
    tokens: float = 0.0


def accumulate(
    engine: Engine, student: Student, reference: Student | None, samples: Sequence[Sample], settings: RlSettings
) -> Sums:
    """Forward and backward of all informative groups; fills in their `logprobs`.

    Every rank makes as many forwards as the rank with the most: one without groups left repeats one that weighs
    nothing. Nothing is computed when no group of any rank is informative.
    """
    kept = sorted((sample for sample in samples if sample.informative), key=lambda sample: sample.response_tokens)
    batches = packed(kept, TOKENS_PER_FORWARD)
    (total,) = engine.total(float(sum(sample.response_tokens for sample in kept)))
    sums = Sums()
    for number in range(most(len(batches), engine.device)):
        batch = batches[number] if number < len(batches) else list(samples[:1])
        idle = number >= len(batches)

        def compute(batch: list[Sample] = batch, idle: bool = idle) -> Tensor:
            loss = batch_loss(student, reference, batch, settings, Sums() if idle else sums)
            return loss * (0.0 if idle else engine.share(total))

        engine.loss(compute)
    return sums


def batch_loss(
    student: Student, reference: Student | None, batch: Sequence[Sample], settings: RlSettings, sums: Sums
) -> Tensor:
    """Sum of the loss over the response tokens of these groups, a scalar; adds to `sums`."""
    groups = [
        response_group(sample.request.prompt, sample.request.video_embeds, [r.token_ids for r in sample.rollouts])
        for sample in batch
    ]
    scored = score(student, groups, settings.temperature, entropy=True)
    for sample, rows in zip(batch, scored.logprobs, strict=True):
        sample.logprobs = [row.detach() for row in rows]
    new = flat(scored.logprobs)
    sampler = torch.tensor([p for sample in batch for r in sample.rollouts for p in r.logprobs], device=new.device)
    lengths = torch.tensor([len(r.token_ids) for sample in batch for r in sample.rollouts])
    advantages = torch.cat([sample.advantages for sample in batch]).repeat_interleave(lengths).to(new.device)
    loss, clipped = clipped_policy_loss(new, new.detach(), advantages, settings.clip_low, settings.clip_high)
    weights = truncated_importance(new, sampler)
    loss = loss * weights
    if reference is not None:
        with torch.no_grad():
            old = flat(score(reference, groups, settings.temperature).logprobs)
        kl = kl_k3(new, old)
        loss = loss + settings.kl * kl
        sums.kl += float(kl.detach().sum())
    sums.loss += float(loss.detach().sum())
    sums.clipped += float(clipped.sum())
    sums.weight += float(weights.sum())
    sums.entropy += float(flat(scored.entropy or []).sum())
    sums.tokens += len(new)
    return loss.sum()


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
