"""Rewards of responses to multiple-choice questions.

Accuracy is judged by the extractor that evaluation uses, so reward and score can't drift apart. A response that was cut
at the token limit gets neither part: it may hold the right letter by accident, never a finished answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from longrl.evaluation.extract import score


@dataclass(frozen=True)
class Reward:
    """What one response earned; `accuracy` and `format` are 0 or 1, `total` is their weighted sum."""

    total: float
    accuracy: float
    format: float


def choice_reward(
    response: str,
    finish: str,
    options: Sequence[str],
    gold: str,
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
) -> Reward:
    """Reward of one response; `finish` is "stop" or "length" (cut off), `gold` the letter of the right option.

    The weights 0.9 and 0.1 are those of "Scaling RL to Long Videos" (arXiv:2507.07966).

    >>> choice_reward("<think>Red is first.</think><answer>B</answer>", "stop", ["blue", "red"], "B")
    Reward(total=1.0, accuracy=1.0, format=1.0)
    >>> choice_reward("B", "stop", ["blue", "red"], "B")
    Reward(total=0.9, accuracy=1.0, format=0.0)
    >>> choice_reward("<think>Red is first.</think><answer>B</answer>", "length", ["blue", "red"], "B").total
    0.0
    """
    if finish != "stop":
        return Reward(0.0, 0.0, 0.0)
    judged = score(response, options, gold)
    accuracy, form = float(judged.correct), float(judged.well_formed)
    return Reward(accuracy_weight * accuracy + format_weight * form, accuracy, form)


def shuffled(rewards: Sequence[float], seed: str) -> list[float]:
    """The same rewards, given to the wrong responses: the control from which nothing can be learned.

    >>> sorted(shuffled([1.0, 2.0, 3.0], "run 0")) == [1.0, 2.0, 3.0]
    True
    """
    mixed = list(rewards)
    random.Random(seed).shuffle(mixed)
    return mixed
