"""What is learned of a user turn: its response, and how much each of its tokens weighs."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from longrl.models.chat import ChatFormat, answer_text, question_text

LETTER = re.compile(r"\(([A-Z])\)")


@dataclass(frozen=True)
class Turn:
    """One user turn and the response to learn, as texts; `weights` are spans (end of span in characters, weight)."""

    prompt: str
    response: str
    weights: tuple[tuple[int, float], ...]
    category: str = ""  # of a question


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
    return Turn(question_text(row["question"], row["options"]), response, tuple(spans), row["category"])


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
    """Captions of a video in order, opened and numbered like a chain of thought.

    >>> described([{"index": 0, "caption": "A ball rolls."}, {"index": 1, "caption": "A box falls."}])
    '<think>clip 1: A ball rolls. clip 2: A box falls.'
    """
    return "<think>" + " ".join(f"clip {clip['index'] + 1}: {clip['caption']}" for clip in clips)


def recall_drill(
    words: Sequence[int], draw: random.Random
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    """Records of a key, filler words and values, then the same in another order: values must be found by their keys.

    Key and values are different random tokens in every record. Fillers, where there are any, are the same in all, so
    that the tokens just before a value say nothing: what counts stands further back, as in "black visits the northeast
    house". Returned are the tokens shown, those to be recalled, and the latter's weights, 0 but for the values.

    >>> shown, recalled, weights = recall_drill(range(100), random.Random(0))
    >>> sorted(shown) == sorted(recalled), len(weights) == len(recalled), sum(weights) <= len(weights) / 2
    (True, True, True)
    """
    records, fillers, values = draw.randint(4, 6), draw.randint(0, 2), draw.randint(1, 2)
    tokens = draw.sample(list(words), records * (1 + values) + fillers + 1)
    between, end = [tokens.pop() for _ in range(fillers)], tokens.pop()
    rows = [[tokens.pop(), *between, *(tokens.pop() for _ in range(values)), end] for _ in range(records)]
    asked = draw.sample(rows, records)
    weights = [0.0] * (1 + fillers) + [1.0] * values + [0.0]
    return tuple(chain(*rows)), tuple(chain(*asked)), tuple(weights * records)
