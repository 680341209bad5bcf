"""What every rank of SFT runs.

1. All ranks draw the whole step's examples and keep every n-th: no sampler state, no exchange of data. The ranks of a
   sequence-parallel group keep the same ones, and share the work of each forward.
2. A video goes through the tower and the language model once, however many questions are asked of it; the tower's call
   and the language model's are batched over videos. A frozen tower embeds every view once, before the first step.
3. Loss on response tokens only, each with its own weight; the mean is over the *global* batch, kind by kind, and the
   kinds' losses add up. A rank without an example of some kind computes one that weighs nothing, so that all ranks make
   the same collectives.
4. A phase may end early, when enough responses are right word for word: small models take their steep turn at a step
   that depends on the seed. (A mean over tokens won't do: most tokens are easy, and the last few words decide.) Steps
   are then left out of the count, so examples stay a function of seed and step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from longrl.config import AnyCategory, FrameSettings, SftSettings
from longrl.models import families
from longrl.models.base import Student
from longrl.models.lora import add_lora
from longrl.models.prompt import Prompt
from longrl.mrsp.activations import limit_activations
from longrl.mrsp.cache import EmbeddingCache
from longrl.mrsp.prefix import Group, question_group, score
from longrl.mrsp.ulysses import make_shards
from longrl.training.checkpoint import Checkpoints, export
from longrl.training.engine import Engine, join, learning_rate
from longrl.training.examples import Example, Examples
from longrl.training.losses import weighted_cross_entropy
from longrl.training.metrics import MetricsFile
from longrl.training.rank import Messages
from longrl.training.sft_videos import Films, decode
from longrl.training.turns import tokenize
from longrl.video.decode import FrameCache
from longrl.video.views import View
from longrl.warehouse.artifacts import ArtifactRef

CLASSES = ("", *AnyCategory)
RECENT = 12  # steps at the full frame budget whose mean may end a phase


def main(job: dict[str, Any], messages: Messages) -> None:
    """Train from the last checkpoint to the last step, then export."""
    settings = SftSettings.model_validate(job["settings"])
    frames = FrameSettings.model_validate(job["frames"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rank, _ = join(device)
    torch.manual_seed(job["seed"])
    student = families.load(job["model"], settings.dtype, device)
    shards = make_shards(settings.sequence_parallel, student.heads)
    student.freeze(*settings.frozen)
    add_lora(student, settings.lora)
    limit_activations(student, settings.gradient_checkpointing, settings.mlp_tiles)

    special = set(student.tokenizer.all_special_ids)
    words = [token for token in range(len(student.tokenizer)) if token not in special]
    videos, captions, dataset = (
        ArtifactRef(**job["tables"][name]).table() for name in ("videos", "captions", "dataset")
    )
    draw = partial(Examples, settings, frames, videos, captions, dataset, job["seed"], words)
    examples = draw()
    frame_cache = FrameCache(job["frame_cache"])
    if broken := decode(examples.views(), frame_cache, messages):
        for video_id, reason in sorted(broken.items()) if rank == 0 else ():
            messages.send("reject", item=video_id, rule="decode", reason=reason)
        examples = draw(broken=list(broken))
    films = Films(student, frame_cache)
    if settings.freeze_vision and not student.trains_encoders:
        films.freeze(EmbeddingCache(job["embedding_cache"], frames.embedding_cache_gib), examples.views(), messages)

    engine = Engine(student.model, settings, shards)
    checkpoints = Checkpoints(Path(job["folder"]), engine, messages.warn)
    step = resumed = checkpoints.restore()
    recent: list[float] = checkpoints.notes.get("recent", [])
    metrics = MetricsFile(Path(job["folder"]), resumed) if rank == 0 else None
    while step < examples.steps:
        step += 1
        row = train_step(engine, student, examples, films, step)
        if metrics:
            metrics.write(**row)
            messages.progress(step, note(row))
        phase, within = examples.phase(step)
        recent = recent if within > 1 else []
        if row["budget"] == max(phase.budgets or frames.budgets):
            recent = [*recent, mean(row["exact"].values())][-RECENT:]
        taken = step
        if phase.until is not None and len(recent) == RECENT and sum(recent) / RECENT >= phase.until:
            step += phase.steps - within
        if taken % settings.checkpoint_every == 0 and step < examples.steps:
            checkpoints.save(step, recent=recent)
    export(engine, student, Path(job["model"]), Path(job["folder"]), settings.lora)
    if rank == 0:
        unsaved = {"checkpoints_failed": checkpoints.failed}
        messages.send("facts", steps=examples.steps, skipped=engine.skipped, resumed_from=resumed, **unsaved)


@dataclass
class Share:
    """One rank's part of a step's examples of one kind, as token groups."""

    groups: list[Group]
    views: list[tuple[View, ...]]  # of each group
    weights: Tensor  # (S,), of all scored tokens in order
    lengths: list[int]  # scored tokens of each response
    classes: list[str]  # of each response: a question's category, or nothing

    @property
    def tokens(self) -> int:
        """Tokens in a forward, video tokens included."""
        return sum(len(group.prefix) + sum(map(len, group.suffixes)) for group in self.groups)


def train_step(engine: Engine, student: Student, examples: Examples, films: Films, step: int) -> dict[str, Any]:
    """Take one step; returns its metrics, which are the same on every rank."""
    started = time.monotonic()
    phase, within = examples.phase(step)
    drawn = examples.step(step)
    shares = {kind: build(student, everything, engine.replica, engine.replicas) for kind, everything in drawn.items()}
    totals = engine.total(*(float(share.weights.sum()) for share in shares.values()))
    sums: list[float] = []
    for share, total in zip(shares.values(), totals, strict=True):
        sums += forward_backward(engine, student, share, films, total)
    rate = learning_rate(within, phase.steps, phase.learning_rate, phase.warmup, phase.decay)
    norm = engine.step(rate)
    sums = engine.total(*sums, sum(share.tokens for share in shares.values()) * engine.replicas / engine.ranks)
    width = 3 + 2 * len(CLASSES)
    parts = {kind: sums[i * width : (i + 1) * width] for i, kind in enumerate(shares)}
    by_kind = {kind: part[0] / max(total, 1e-9) for (kind, part), total in zip(parts.items(), totals, strict=True)}
    seconds = time.monotonic() - started
    return {
        "step": step,
        "phase": phase.name,
        "loss": sum(by_kind.values()) / len(by_kind),
        "losses": by_kind,
        "token_accuracy": {kind: part[1] / max(part[2], 1.0) for kind, part in parts.items()},
        "exact": {
            f"{kind} {name}".strip(): right / count
            for kind, part in parts.items()
            for name, right, count in zip(CLASSES, part[3::2], part[4::2], strict=True)
            if count
        },
        "budget": examples.budget(step),
        "learning_rate": rate,
        "gradient_norm": norm,
        "skipped": engine.skipped,
        **cache_counts(engine, films),
        "tokens": int(sums[-1]),
        "tokens_per_second": sums[-1] / seconds,
        "seconds": seconds,
    }


def cache_counts(engine: Engine, films: Films) -> dict[str, int]:
    """Look-ups of embeddings that were found, and views that went through the frozen tower, on all ranks so far."""
    if films.cache is None:
        return {}
    hits, encodes = engine.total(films.cache.hits, films.cache.encodes)
    return {"cache_hits": int(hits), "cache_encodes": int(encodes)}


def forward_backward(engine: Engine, student: Student, share: Share, films: Films, total: float) -> list[float]:
    """Accumulate gradients of this rank's part.

    Returns sums: weighted loss, right tokens, tokens, and for each of `CLASSES` the responses that are right word for
    word, and the responses.
    """
    seen: list[float] = []

    def compute() -> Tensor:
        attach_videos(share, films)
        scored = score(student, share.groups, shards=engine.shards)
        logprobs = torch.cat([row for group in scored.logprobs for row in group])
        correct = torch.cat([row for group in scored.correct for row in group])
        weights = share.weights.to(logprobs.device)
        loss = weighted_cross_entropy(logprobs, weights)
        counted = weights > 0
        seen.extend(map(float, (loss.detach(), (correct & counted).sum(), counted.sum())))
        whole = [bool(row.all()) for row in (correct | ~counted).split(share.lengths)]
        taught = [bool(row.any()) for row in counted.split(share.lengths)]
        for wanted in CLASSES:
            mine = [
                right
                for right, scored, each in zip(whole, taught, share.classes, strict=True)
                if scored and each == wanted
            ]
            seen.extend((float(sum(mine)), float(len(mine))))
        return loss * engine.share(total)

    engine.loss(compute)
    return seen


def attach_videos(share: Share, films: Films) -> None:
    """Hang the embeddings of the share's videos into its groups."""
    seen = [view for views in share.views for view in views]
    found = iter(films.embeds(seen) if seen else ())
    for group, views in zip(share.groups, share.views, strict=True):
        parts = (films.student.split(view.kind, view.plan, next(found)) for view in views)
        group.embeds = tuple(chain.from_iterable(parts))


def build(student: Student, everything: Sequence[Example], replica: int, replicas: int) -> Share:
    """A replica's part of a kind's examples as groups; one that weighs nothing where the replica has none."""
    mine = everything[replica::replicas] or everything[:1]
    idle = replica >= len(everything)
    weights: list[float] = []
    lengths: list[int] = []
    classes: list[str] = []
    groups: list[Group] = []
    views: list[tuple[View, ...]] = []
    if alone := [example for example in mine if not example.views]:  # all share the opening of the turn: one group
        rows = [row for example in alone for row in text_rows(student, example)]
        suffixes, starts = [row.suffix for row in rows], [row.start for row in rows]
        groups.append(Group(rows[0].prompt, (), list(rows[0].prompt.head), suffixes, starts, alone[0].shift))
        views.append(())
        weights += [weight for row in rows for weight in row.weights]
        lengths += [len(row.weights) for row in rows]
        classes += [row.category for row in rows]
    for example in mine:
        if not example.views:
            continue
        seen = [student.media(view.kind, view.plan) for view in example.views]
        prompts = [student.chat.prompt(turn.prompt, seen) for turn in example.turns]
        answers = [tokenize(student.chat, turn.response, turn.weights) for turn in example.turns]
        group = question_group(prompts, (), [ids for ids, _ in answers])
        group.shift = example.shift
        groups.append(group)
        views.append(example.views)
        weights += [weight for _, each in answers for weight in each]
        lengths += [len(each) for _, each in answers]
        classes += [turn.category for turn in example.turns]
    scale = torch.tensor(weights) * (0.0 if idle else 1.0)
    return Share(groups, views, scale, lengths, classes)


@dataclass(frozen=True)
class TextRow:
    """A text-only row after the opening of the turn: tokens, the first scored one, and the scored ones' weights."""

    prompt: Prompt
    suffix: list[int]
    start: int
    weights: Sequence[float]
    category: str = ""


def text_rows(student: Student, example: Example) -> list[TextRow]:
    """A drill, or the turns of an example without media."""
    if example.drill:
        shown, copied, weights = example.drill
        return [TextRow(student.chat.prompt(""), [*shown, *copied], len(shown), weights)]
    rows = []
    for turn in example.turns:
        prompt = student.chat.prompt(turn.prompt)
        ids, each = tokenize(student.chat, turn.response, turn.weights)
        rows.append(TextRow(prompt, [*prompt.tail, *ids], len(prompt.tail), each, turn.category))
    return rows


def note(row: dict[str, Any]) -> str:
    """The step in a few words, for the progress bar."""
    parts = [f"{kind} {loss:.2f}/{row['token_accuracy'][kind]:.0%}" for kind, loss in row["losses"].items()]
    return f"{row['phase']}: " + ", ".join(parts)
