"""What is learned of a user turn: its response, and how much each of its tokens weighs."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longrl.models.chat import ChatFormat, answer_text, question_text

DRILL = (16, 24)  # different tokens shown, tokens to be copied from them
LETTER = re.compile(r"\(([A-Z])\)")


@dataclass(frozen=True)
class Turn:
    """One user turn and the response to learn, as texts; `weights` are spans (end of span in characters, weight)."""

    prompt: str
    response: str
    weights: tuple[tuple[int, float], ...]


def question_turn(row: dict[str, Any], weights: Sequence[float], reading: bool = False) -> Turn:
    """A question with its chain of thought; for `reading` the chain is given for nothing (weight 0)."""
    response = answer_text(row["reasoning"], row["conclusion"], row["answer"])
    reasoning, conclusion, answer, letter = weights
    start = len("<think>") + len(row["reasoning"].strip())
    end = response.rindex("</think>")
    spans = [(start, 0.0 if reading else reasoning)]
    for match in LETTER.finditer(response, start, end):
        spans += [(match.start(), conclusion), (match.end(), letter)]
    spans += [(end, conclusion), (len(response), answer)]
    return Turn(question_text(row["question"], row["options"]), response, tuple(spans))


def plain_turn(prompt: str, response: str) -> Turn:
    """A turn whose response tokens all weigh 1."""
    return Turn(prompt, response, ((len(response), 1.0),))


def tokenize(chat: ChatFormat, response: str, spans: tuple[tuple[int, float], ...]) -> tuple[list[int], list[float]]:
    """Ids of a response with its end of turn, and each token's weight: that of the span its last character is in."""
    encoding = chat.tokenizer(
        response, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    weights = [next(weight for end, weight in spans if stop <= end) for _, stop in encoding["offset_mapping"]]
    return [*encoding["input_ids"], chat.end], [*weights, spans[-1][1]]


def described(clips: Sequence[dict[str, Any]]) -> str:
    """All captions of a video in order, opened and numbered like a chain of thought.

    >>> described([{"caption": "A ball rolls."}, {"caption": "A box falls."}])
    '<think>clip 1: A ball rolls. clip 2: A box falls.'
    """
    return "<think>" + " ".join(f"clip {number}: {clip['caption']}" for number, clip in enumerate(clips, 1))


def copy_drill(words: Sequence[int], draw: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Different random tokens, then runs of them from random places; a run's first token can't be known (weight 0).

    >>> shown, copied, weights = copy_drill(range(100), random.Random(0))
    >>> len(shown), len(copied) >= 24, set(copied) <= set(shown), weights[:2]
    (16, True, True, (0.0, 1.0))
    """
    shown = draw.sample(list(words), DRILL[0])
    copied: list[int] = []
    weights: list[float] = []
    while len(copied) < DRILL[1]:
        start = draw.randrange(len(shown) - 1)
        run = shown[start : start + draw.randint(2, 5)]
        copied += run
        weights += [0.0, *[1.0] * (len(run) - 1)]
    return tuple(shown), tuple(copied), tuple(weights)
