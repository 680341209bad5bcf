"""The prompt computed once: token logprobs of many continuations of one prefix, exact and differentiable.

RL shares video and question among the G responses of a group; SFT shares the video among its questions, each followed
by its response. Both are a `Group`: a prefix and its suffixes, in which some tokens are scored. Groups are right-padded
to one batch, so any number of videos is one forward of the language model: P + G·R tokens a group instead of G·(P + R).

The last prompt token opens every suffix instead of closing the prefix, so each scored token has its own row in the
suffixes and no hidden state of the prefix is needed. The head runs on scored tokens only, in chunks: full-vocabulary
logits of a prompt never exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from longrl.models.base import Student
from longrl.models.prompt import Prompt
from longrl.mrsp.attention import Layout
from longrl.mrsp.ulysses import Shards

CHUNK = 1024  # rows of logits alive at once


@dataclass
class Group:
    """One prefix and its suffixes.

    `prompt` gives the tokens up to the split and their positions; `suffixes` are token ids from the split on;
    `scored[i]` is the first scored token of suffix i (at least 1: the token before it is needed to predict it).
    `shift` moves the suffixes' positions on, as if the video were longer: SFT on short clips uses it.
    """

    prompt: Prompt
    embeds: Sequence[Tensor]  # of the prompt's media, (tokens, W) each
    prefix: list[int]
    suffixes: list[list[int]]
    scored: list[int]
    shift: int = 0


def response_group(prompt: Prompt, embeds: Sequence[Tensor], responses: Sequence[Sequence[int]]) -> Group:
    """RL: one prompt, G responses (token ids); every response token is scored."""
    ids = prompt.expanded
    return Group(prompt, embeds, ids[:-1], [[ids[-1], *response] for response in responses], [1] * len(responses))


def question_group(prompts: Sequence[Prompt], embeds: Sequence[Tensor], responses: Sequence[Sequence[int]]) -> Group:
    """SFT: several questions on the same media, each with one response; only response tokens are scored.

    Without media nothing but the opening of the turn is shared. Raises `ValueError` when the prompts' media differ.
    """
    first = prompts[0]
    if any(prompt.opening != first.opening for prompt in prompts):
        raise ValueError("the questions of a group must be on one video with one frame plan, or on the same images")
    suffixes = [[*prompt.tail, *response] for prompt, response in zip(prompts, responses, strict=True)]
    return Group(first, embeds, first.context, suffixes, [len(prompt.tail) for prompt in prompts])


@dataclass
class Scored:
    """What a forward says about the scored tokens; lists follow groups and their suffixes."""

    logprobs: list[list[Tensor]]  # (R_i,) float32, differentiable
    entropy: list[list[Tensor]] | None  # (R_i,) nats, detached
    correct: list[list[Tensor]]  # (R_i,) bool: the token was the most likely one


def score(
    student: Student,
    groups: Sequence[Group],
    temperature: float = 1.0,
    entropy: bool = False,
    kernel: Literal["cascade", "concatenated"] = "cascade",
    shards: Shards | None = None,
) -> Scored:
    """Logprobs of all scored tokens of all groups, in one forward of the language model.

    `temperature` divides the logits, as sampling does. Groups may differ in prefix, number of suffixes and lengths;
    alike groups waste no padding. With `shards` the ranks of a group call this with the same groups and share the work;
    each gets all results and must compute the same loss from them (see `longrl.mrsp.ulysses`).
    """
    packed = pack(student, groups)
    width = packed.layout.tokens if shards is None else shards.slice_of(packed.layout.tokens)
    rank = 0 if shards is None else shards.rank
    embeds, position_ids = embed(student, packed, groups, rank * width, width)
    hidden = student.text_hidden(embeds, position_ids, replace(packed.layout, kernel=kernel, shards=shards))
    owner = (packed.columns // width).to(hidden.device)
    own = owner == rank
    rows, columns, targets = (x.to(hidden.device)[own] for x in (packed.rows, packed.columns, packed.targets))
    logprobs, nats, hits = token_logprobs(student, hidden[rows, columns - rank * width], targets, temperature, entropy)
    if shards is not None:
        logprobs, hits = shards.gather(logprobs, owner), shards.gather(hits.float(), owner).bool()
        nats = None if nats is None else shards.gather(nats, owner)
    return Scored(
        _regroup(logprobs, groups, packed.counts),
        None if nats is None else _regroup(nats, groups, packed.counts),
        _regroup(hits, groups, packed.counts),
    )


def group_logprobs(
    student: Student,
    prompt: Prompt,
    embeds: Sequence[Tensor],
    responses: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[Tensor]:
    """Logprobs of each response's tokens, (R_i,) each, with the prompt computed once; differentiable."""
    return score(student, [response_group(prompt, embeds, responses)], temperature).logprobs[0]


@dataclass(frozen=True)
class Packed:
    """Groups as rows of tokens, and where in them the scored tokens are predicted."""

    ids: Tensor  # (B, L)
    position_ids: Tensor  # (A, B, L)
    rows: Tensor  # (T,) of the hidden states that predict the scored tokens
    columns: Tensor  # (T,)
    targets: Tensor  # (T,) those tokens
    counts: list[int]  # scored tokens of each suffix
    layout: Layout


def pack(student: Student, groups: Sequence[Group]) -> Packed:
    """Lay groups out as rows `[prefix | suffix 1 | ... | suffix G]`, right-padded part by part."""
    pad = student.chat.end  # any ordinary token: its rows are never looked at
    lengths = [len(group.prefix) for group in groups]
    P, G = max(lengths), max(len(group.suffixes) for group in groups)
    R = max(len(suffix) for group in groups for suffix in group.suffixes)
    ids = torch.full((len(groups), P + G * R), pad)
    position_ids = torch.zeros(student.AXES, len(groups), P + G * R, dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    counts: list[int] = []
    for b, group in enumerate(groups):
        n = len(group.prefix)
        # A prefix is never split inside a medium: what comes after it is text, counting up by one.
        block = student.positions(group.prompt, extra=R)[:, : n + R]
        ids[b, :n] = torch.tensor(group.prefix)
        position_ids[:, b, :n] = block[:, :n]
        position_ids[:, b, P:] = block[:, n:].repeat(1, G) + group.shift
        for g, (suffix, first) in enumerate(zip(group.suffixes, group.scored, strict=True)):
            if first < 1:
                raise ValueError(f"group {b}, suffix {g}: the first scored token needs a token before it")
            start = P + g * R
            ids[b, start : start + len(suffix)] = torch.tensor(suffix)
            count = len(suffix) - first
            rows += [b] * count
            columns += range(start + first - 1, start + len(suffix) - 1)
            targets += suffix[first:]
            counts.append(count)
    ragged = torch.tensor(lengths, device=student.device) if min(lengths) != P else None
    row, column, target = (torch.tensor(x, dtype=torch.long) for x in (rows, columns, targets))
    return Packed(ids, position_ids, row, column, target, counts, Layout(P, G, R, ragged))


def embed(student: Student, packed: Packed, groups: Sequence[Group], start: int, width: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, width, W) and positions (A, B, width) of the columns from `start` on, padded past the end.

    Pads become embeddings of media in prefixes only: a sampled response may contain a pad token.
    """
    P = packed.layout.prompt
    missing = max(0, start + width - packed.layout.tokens)
    ids = F.pad(packed.ids, (0, missing), value=student.chat.end)[:, start : start + width].to(student.device)
    split = min(max(P - start, 0), width)  # so many of these columns belong to prefixes
    media: dict[int, list[Tensor]] = {}  # by pad, what stands in these columns, row by row
    for b, group in enumerate(groups):
        if why := group.prompt.misfit(group.embeds, student.width):
            raise ValueError(f"group {b}: {why}; both must be of one frame plan")
        seen = packed.ids[b, : len(group.prefix)]
        for pad, whole in group.prompt.by_pad(group.embeds).items():
            here = seen == pad
            first, last = int(here[:start].sum()), int(here[: start + split].sum())
            rows = torch.cat(list(whole)) if len(whole) > 1 else whole[0]
            media.setdefault(pad, []).append(rows[first:last].to(student.device))
    prefix = student.token_embeds(ids[:, :split], {pad: torch.cat(rows) for pad, rows in media.items()})
    suffixes = student.token_embeds(ids[:, split:])
    embeds = torch.cat([prefix, F.pad(suffixes, (0, prefix.shape[-1] - suffixes.shape[-1]))], 1)
    return embeds, F.pad(packed.position_ids, (0, missing))[:, :, start : start + width]


def _regroup(values: Tensor, groups: Sequence[Group], counts: list[int]) -> list[list[Tensor]]:
    parts = iter(values.split(counts))
    return [[next(parts) for _ in group.suffixes] for group in groups]


def token_logprobs(
    student: Student, hidden: Tensor, targets: Tensor, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Logprobs (S,) float32 of `targets` given hidden states (S, H); entropy (S,) in nats; hits (S,) bool.

    At most `CHUNK` rows of logits exist at a time, in the backward too.
    """
    head = student.head
    logprobs, nats, hits = ChunkedLogprobs.apply(hidden, head, targets, temperature, entropy)
    return logprobs, nats if entropy else None, hits


class ChunkedLogprobs(torch.autograd.Function):
    """log softmax(hidden · headᵀ / temperature)[target], with logits recomputed chunk by chunk in the backward."""

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, entropy: bool):  # type: ignore[no-untyped-def]
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = hidden.new_empty(len(targets), dtype=dtype)
        nats = torch.empty_like(logprobs) if entropy else hidden.new_empty(0)
        hits = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        for i in range(0, len(targets), CHUNK):
            rows = slice(i, i + CHUNK)
            logits = (hidden[rows] @ head.T).to(dtype) / temperature
            total = logits.logsumexp(1)
            logprobs[rows] = logits.gather(1, targets[rows, None])[:, 0] - total
            hits[rows] = logits.argmax(1) == targets[rows]
            if entropy:
                nats[rows] = total - (logits.softmax(1) * logits).sum(1)
        ctx.save_for_backward(hidden, head, targets)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(nats, hits)
        return logprobs, nats, hits

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor):  # type: ignore[no-untyped-def, override]
        hidden, head, targets = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None  # None: the head is frozen
        for i in range(0, len(targets), CHUNK):
            rows = slice(i, i + CHUNK)
            slope = ((hidden[rows] @ head.T).to(grad.dtype) / ctx.temperature).softmax(1).neg_()
            slope[torch.arange(len(slope), device=slope.device), targets[rows]] += 1
            slope = slope.mul_(grad[rows, None] / ctx.temperature).to(hidden.dtype)
            grad_hidden[rows] = slope @ head
            if grad_head is not None:
                grad_head.addmm_(slope.T, hidden[rows])
        return grad_hidden, grad_head, None, None, None
