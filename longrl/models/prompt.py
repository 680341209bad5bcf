"""A prompt as token ids, with the places where videos, images and sounds stand in it.

A prompt is a sequence of token runs and slots. A slot holds one medium (or a video with its own sound, whose tokens
alternate) and has two forms: `compact` is what vLLM takes and expands itself, usually one pad; `expanded` is what the
trainer embeds and scores: a pad for each embedding, and whatever text the family puts between them (timestamps). The
n-th pad of a kind belongs to the n-th embedding of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Grid = tuple[int, int, int]  # (t, h, w) in patches of the tower; a sound's is (tokens, 1, 1)
Kind = Literal["video", "image", "audio"]


@dataclass(frozen=True)
class Medium:
    """A video, an image or a sound as a prompt knows it before it is embedded.

    `tokens` counts its embeddings. `second_per_grid` is the time between two temporal patches, `times` the moment of
    each (both in seconds; families that tell time by text need the latter).
    """

    kind: Kind
    tokens: int
    grid: Grid
    second_per_grid: float = 1.0
    times: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} of grid {self.grid}, {self.second_per_grid} s per temporal patch"


@dataclass(frozen=True)
class Slot:
    """Where media stand in a prompt; `pads[k]` is the token that stands for each embedding of `media[k]`."""

    media: tuple[Medium, ...]
    pads: tuple[int, ...]
    compact: tuple[int, ...]
    expanded: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """A user turn up to the point where the response starts.

    `opening` is what all questions on the same media share: token runs and slots, up to the last slot. `tail` is the
    rest, the question's own.
    """

    opening: tuple[tuple[int, ...] | Slot, ...]
    tail: tuple[int, ...]

    @cached_property
    def slots(self) -> list[Slot]:
        """The slots, in order."""
        return [part for part in self.opening if isinstance(part, Slot)]

    @cached_property
    def media(self) -> list[Medium]:
        """All media, in the order in which their embeddings are given."""
        return [medium for slot in self.slots for medium in slot.media]

    @cached_property
    def head(self) -> tuple[int, ...]:
        """Ids before the first slot; without one, all of the opening."""
        return self.opening[0] if self.opening and not isinstance(self.opening[0], Slot) else ()

    @cached_property
    def media_tokens(self) -> int:
        """Embeddings of all media."""
        return sum(medium.tokens for medium in self.media)

    def __len__(self) -> int:
        """Tokens of the expanded form."""
        return sum(len(p.expanded) if isinstance(p, Slot) else len(p) for p in self.opening) + len(self.tail)

    @property
    def compact(self) -> list[int]:
        """Ids as vLLM wants them."""
        parts = (part.compact if isinstance(part, Slot) else part for part in self.opening)
        return [*(token for part in parts for token in part), *self.tail]

    @property
    def expanded(self) -> list[int]:
        """Ids as the trainer wants them."""
        return [*self.context, *self.tail]

    @property
    def context(self) -> list[int]:
        """The part that all questions on the same media share, expanded."""
        parts = (part.expanded if isinstance(part, Slot) else part for part in self.opening)
        return [token for part in parts for token in part]

    def starts(self) -> list[int]:
        """Where each slot starts in the expanded form."""
        found, at = [], 0
        for part in self.opening:
            if isinstance(part, Slot):
                found.append(at)
            at += len(part.expanded) if isinstance(part, Slot) else len(part)
        return found

    def by_pad(self, embeds: Sequence[Any]) -> dict[int, list[Any]]:
        """What is given for each of `media`, gathered by the token that stands for it."""
        found: dict[int, list[Any]] = {}
        for pad, each in zip((pad for slot in self.slots for pad in slot.pads), embeds, strict=True):
            found.setdefault(pad, []).append(each)
        return found

    def misfit(self, embeds: Sequence[Any], width: int) -> str:
        """Why these embeddings, (tokens, width) each, are not those of the prompt's media; empty when they are."""
        if len(embeds) != len(self.media):
            told = ", ".join(map(str, self.media)) or "no media"
            return f"its prompt has {told}, but {len(embeds)} embeddings came with it"
        for medium, each in zip(self.media, embeds, strict=True):
            if tuple(each.shape) != (medium.tokens, width):
                return (
                    f"embeddings are {tuple(each.shape)}, but {medium.kind} of grid {medium.grid} needs "
                    f"{(medium.tokens, width)}; it was encoded with another frame plan or model"
                )
        return ""
