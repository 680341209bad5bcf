"""The parity gate: the trainer's logprobs of the engine's own rollouts, compared with the engine's.

Trainer and rollout engine are two programs that must see one model: the same weights, prompt, frames and positions.
Before the first RL step the gate scores rollouts again; a gap over the tolerance stops the run and names the token. At
every later step the same comparison is a metric.

Two gaps are looked at. The largest is of one token, and rounding in bfloat16 alone makes it some hundredths; the mean
over all tokens is steady, and sees what is a little wrong everywhere: positions off by one, weights one update old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longrl.errors import LongrlError
from longrl.models.base import Student
from longrl.models.prompt import Prompt
from longrl.mrsp import prefix
from longrl.rollout.request import Request, Rollout

# Honest gaps of a trained tiny student were 4e-7 in float32; one update of 5e-5 left out makes 2e-4.
MEAN_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}


class ParityError(LongrlError):
    """Trainer and rollout engine disagree about a token; the message says where."""


@dataclass(frozen=True)
class Gap:
    """|trainer - engine| over rollout tokens, in nats, and where it is largest."""

    largest: float
    mean: float
    tokens: int
    question: str
    sample: int
    position: int  # index into the response
    token: int
    trainer: float
    engine: float


def measure(
    questions: Sequence[str], rollouts: Sequence[Sequence[Rollout]], logprobs: Sequence[Sequence[Tensor]]
) -> Gap:
    """Compare logprobs the trainer has computed anyway; all lists follow groups and their samples.

    Raises `ValueError` without a single token.
    """
    worst, total, tokens = None, 0.0, 0
    for question, group, scored in zip(questions, rollouts, logprobs, strict=True):
        for sample, (rollout, ours) in enumerate(zip(group, scored, strict=True)):
            ours = ours.detach().float().cpu()
            theirs = torch.tensor(rollout.logprobs)
            gap = (ours - theirs).abs().nan_to_num(float("inf"))  # a NaN is no agreement
            if not len(gap):
                continue
            total, tokens = total + float(gap.sum()), tokens + len(gap)
            at = int(gap.argmax())
            if worst is None or gap[at] > worst[0]:
                worst = float(gap[at]), question, sample, at, rollout.token_ids[at], float(ours[at]), float(theirs[at])
    if worst is None:
        raise ValueError("no rollout token to compare")
    largest, *where = worst
    return Gap(largest, total / tokens, tokens, *where)  # type: ignore[arg-type]


def check(
    student: Student,
    questions: Sequence[str],
    plans: Sequence[str],
    requests: Sequence[Request],
    rollouts: Sequence[Sequence[Rollout]],
    tolerance: float,
    mean_tolerance: float | None,
    prompts: Sequence[Prompt] | None = None,
) -> Gap:
    """The gate: score the rollouts with the student and compare.

    `questions` and `plans` are the ids and frame plan digests that an error names. `prompts` are what the *trainer*
    would build for these questions, if it builds them apart from the requests. Temperature must be one for all requests
    and above 0. Raises `ParityError` naming question, frame plan, grid, token and position where the gap is largest, if
    it is over `tolerance` or the mean gap over `mean_tolerance` (nats; None takes `MEAN_TOLERANCE` of the student's
    dtype).
    """
    if mean_tolerance is None:
        mean_tolerance = MEAN_TOLERANCE[str(student.dtype).removeprefix("torch.")]
    temperatures = {request.temperature for request in requests}
    if len(temperatures) != 1 or min(temperatures) <= 0:
        raise ValueError(f"parity needs rollouts of one temperature above 0, not {sorted(temperatures)}")
    prompts = [request.prompt for request in requests] if prompts is None else prompts
    groups = [
        prefix.response_group(prompt, request.embeds, [rollout.token_ids for rollout in group])
        for prompt, request, group in zip(prompts, requests, rollouts, strict=True)
    ]
    with torch.no_grad():
        logprobs = prefix.score(student, groups, temperatures.pop()).logprobs
    gap = measure(questions, rollouts, logprobs)
    if gap.largest > tolerance or gap.mean > mean_tolerance:
        number = list(questions).index(gap.question)
        raise ParityError(
            explain(gap, plans[number], prompts[number], requests[number].prompt, student.tokenizer)
            + f" The tolerance is {tolerance} for a token and {mean_tolerance} on average."
        )
    return gap


def explain(gap: Gap, plan: str, ours: Prompt, theirs: Prompt, tokenizer: Any) -> str:
    """Where the gap is largest, and what trainer and engine were given there."""
    return (
        f"question {gap.question}, sample {gap.sample}: token {gap.position} ({tokenizer.decode([gap.token])!r}, id "
        f"{gap.token}) has logprob {gap.trainer:.4f} in the trainer and {gap.engine:.4f} in vLLM, {gap.largest:.4f} "
        f"apart; {gap.mean:.5f} on average over {gap.tokens} tokens. Frame plan {plan}; {shown(ours)} in the trainer, "
        f"{shown(theirs)} in vLLM. Compare weights, frame plan, positions and dtype of the two."
    )


def shown(prompt: Prompt) -> str:
    """What a prompt shows, in words."""
    return ", ".join(map(str, prompt.media)) or "text alone"
