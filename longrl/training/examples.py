"""Training examples: which videos and texts a step of SFT sees, and how much each token weighs.

Examples are a pure function of (tables, settings, seed, step), so a resumed run needs only its step number and every
rank can draw the whole step and keep its share. Each kind goes through its items in shuffled epochs: nothing is seen
twice before everything has been seen once. Only rows and videos of the split "sft" are ever drawn.

All videos of a step share one frame budget (equal lengths batch without padding); budgets change from step to step,
larger ones more often, so that the student answers at every budget.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from longrl.config import FrameSettings, Phase, SftSettings
from longrl.models.chat import question_text
from longrl.training.turns import Turn, described, plain_turn, question_turn, recall_drill
from longrl.video.views import View, plan, views_of

KINDS = ("recall_drill", "clip_captions", "video_captions", "reading", "blind_questions", "questions")
# Text after a clip, and text alone, is moved on by some positions, as if a whole video stood before it: a small model
# that has only ever seen small positions does not find its way at large ones.
CLIP_SHIFT, TEXT_SHIFT = (25, 80), (0, 110)


@dataclass(frozen=True)
class Example:
    """Turns that share one video, or the same images, or nothing; a drill has tokens in place of a turn."""

    kind: str
    views: tuple[View, ...] = ()
    turns: tuple[Turn, ...] = ()
    drill: tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]] | None = None  # shown, to copy, weights
    shift: int = 0


@dataclass
class Cycle:
    """Endless shuffled epochs over some items; position p is the same item in every process.

    `arrange` turns an epoch's shuffled indices into the order wanted.
    """

    name: str
    items: Sequence[Any]
    arrange: Callable[[list[int]], list[int]] = list
    _orders: dict[int, list[int]] = field(default_factory=dict, repr=False)

    def take(self, start: int, count: int) -> list[Any]:
        """Items at positions start .. start + count - 1."""
        return [self.items[self._order(p // len(self.items))[p % len(self.items)]] for p in range(start, start + count)]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self.items)))
            random.Random(f"{self.name} {epoch}").shuffle(order)
            order = self.arrange(order)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return self._orders[epoch]


class Examples:
    """Draws the examples of any step.

    `videos`, `captions` and `dataset` are the stages' tables; `words` are the token ids drills are made of; `broken`
    names videos and images to leave out. Raises `ValueError` when a phase asks for a kind of which there is no item.
    """

    def __init__(
        self,
        settings: SftSettings,
        frames: FrameSettings,
        videos: pl.DataFrame,
        captions: pl.DataFrame,
        dataset: pl.DataFrame,
        seed: int,
        words: Sequence[int] = (),
        broken: Sequence[str] = (),
    ):
        self.settings, self.frames, self.seed, self.words = settings, frames, seed, list(words)
        mine = dataset.filter(pl.col("split") == "sft").sort("question_id")
        self.questions: dict[str, list[dict[str, Any]]] = {}
        for row in mine.iter_rows(named=True):
            if not {row["video_id"], *(each["media_id"] for each in row.get("media") or ())} & set(broken):
                self.questions.setdefault(row["video_id"], []).append(row)
        self.videos = {
            row["video_id"]: row for row in videos.iter_rows(named=True) if row["video_id"] in self.questions
        }
        self.clips: dict[str, list[dict[str, Any]]] = {}
        for row in captions.sort("video_id", "index").iter_rows(named=True):
            if row["video_id"] in self.questions:
                self.clips.setdefault(row["video_id"], []).append(row)
        ids = sorted(self.questions)
        items: dict[str, list[Any]] = {
            "recall_drill": [None],
            "clip_captions": [clip for video_id in ids for clip in self.clips.get(video_id, [])],
            "video_captions": [video_id for video_id in ids if video_id in self.clips],
            "reading": [row for video_id in ids for row in self.questions[video_id]],
            "blind_questions": [row for video_id in ids for row in self.questions[video_id]],
            "questions": ids,
        }
        self.cycles = {kind: Cycle(f"{seed} {kind}", rows) for kind, rows in items.items()}
        for phase in settings.phases:
            for kind in self.kinds(phase):
                if phase.steps and not items[kind]:
                    raise ValueError(f"phase {phase.name!r} asks for {kind}, but the split sft has none")

    @staticmethod
    def kinds(phase: Phase) -> list[str]:
        """The kinds a phase mixes, in a fixed order."""
        return [kind for kind in KINDS if getattr(phase.mixture, kind)]

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.settings.phases)

    def phase(self, step: int) -> tuple[Phase, int]:
        """The phase of step 1, 2, ... and the step's number in it, from 1."""
        for phase in self.settings.phases:
            if step <= phase.steps:
                return phase, step
            step -= phase.steps
        raise IndexError("past the last step")

    def budget(self, step: int) -> int:
        """Frames of every whole video in this step; the n-th smallest budget is drawn n times as often."""
        budgets = sorted(self.phase(step)[0].budgets or self.frames.budgets)
        return random.Random(f"{self.seed} budget {step}").choices(budgets, range(1, len(budgets) + 1))[0]

    def step(self, step: int) -> dict[str, list[Example]]:
        """All examples of a step, by kind, for all ranks together."""
        phase, within = self.phase(step)
        before = self.settings.phases[: self.settings.phases.index(phase)]
        draw = random.Random(f"{self.seed} step {step}")
        budget = self.budget(step)
        examples = {}
        for kind in self.kinds(phase):
            count = getattr(phase.mixture, kind)
            start = sum(p.steps * getattr(p.mixture, kind) for p in before) + (within - 1) * count
            items = self.cycles[kind].take(start, count)
            examples[kind] = [self._example(kind, item, budget, draw) for item in items]
        return examples

    def _example(self, kind: str, item: Any, budget: int, draw: random.Random) -> Example:
        if kind == "recall_drill":
            return Example(kind, drill=recall_drill(self.words, draw))
        if kind == "clip_captions":
            turn = self._retold(item["video_id"], [item], draw)
            return Example(kind, (self.clip_view(item),), (turn,), shift=draw.randrange(*CLIP_SHIFT))
        if kind == "video_captions":
            return Example(kind, self.whole(item, budget), (self._retold(item, self.clips[item], draw),))
        if kind in ("reading", "blind_questions"):
            turn = question_turn(item, self.settings.loss_weights, reading=kind == "reading")
            return Example(kind, turns=(turn,), shift=draw.randrange(*TEXT_SHIFT))
        chosen = spread(self.questions[item], self.settings.questions_per_video, draw)
        turns = tuple(question_turn(row, self.settings.loss_weights) for row in chosen)
        return Example(kind, self.whole(item, budget), turns)

    def _retold(self, video_id: str, clips: Sequence[dict[str, Any]], draw: random.Random) -> Turn:
        """A question of the video, and how its chain of thought begins: what was seen, whatever is asked."""
        rows = draw.choice(list(by_category(self.questions[video_id]).values()))
        row = draw.choice(rows)
        return plain_turn(question_text(row["question"], row["options"]), described(clips))

    def whole(self, video_id: str, budget: int) -> tuple[View, ...]:
        """The whole video with this frame budget, or the group of images."""
        return views_of(self.questions[video_id][0], self.videos, self.frames, budget)

    def clip_view(self, clip: dict[str, Any]) -> View:
        """What a clip's caption tells of: two frames for each visit where the teacher saw some, else the whole clip.

        A small model learns to see from few telling frames; from all of a clip it learns slowly which ones matter.
        """
        video = self.videos[clip["video_id"]]
        end = min(clip["end"], video["duration"])
        visits = json.loads(clip["facts"]).get("visits", [])
        if visits and clip["start"] <= visits[0]["start"] < visits[-1]["end"] <= end:
            span, budget = (visits[0]["start"], visits[-1]["end"]), 2 * len(visits)
        else:  # frames as far apart as the whole video's are at the full budget
            share = (end - clip["start"]) / video["duration"]
            span, budget = (clip["start"], end), max(2, round(self.frames.budget * share / 2) * 2)
        return View(clip["video_id"], video["path"], plan(video["duration"], budget, self.frames, *span))

    def views(self) -> list[View]:
        """Every view that some step may ask for, video by video."""
        used = {kind for phase in self.settings.phases if phase.steps for kind in self.kinds(phase)}
        budgets = sorted({budget for phase in self.settings.phases for budget in phase.budgets or self.frames.budgets})
        views = []
        for video_id in sorted(self.questions):
            if used & {"video_captions", "questions"}:
                views += [view for budget in budgets for view in self.whole(video_id, budget)]
            if "clip_captions" in used:
                views += [self.clip_view(clip) for clip in self.clips.get(video_id, [])]
        return list(dict.fromkeys(views))


def spread(rows: Sequence[dict[str, Any]], count: int, draw: random.Random) -> list[dict[str, Any]]:
    """Up to `count` questions, from every category in turn."""
    groups = by_category(draw.sample(list(rows), len(rows)))
    ranked = [(place, row) for group in groups.values() for place, row in enumerate(group)]
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])][:count]


def by_category(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Questions by their category, in the order given."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["category"], []).append(row)
    return groups
