"""In which order RL meets its questions: by chance, the easy ones first, or those of like length together.

Every order is a function of (seed, epoch): each epoch is shuffled anew, and what the order leaves open stays shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longrl.training.examples import Cycle
from longrl.training.rank import TrainingError


def curriculum(order: str, name: str, questions: Sequence[dict[str, Any]], lengths: Sequence[int], batch: int) -> Cycle:
    """Endless epochs over `questions` (rows of DATASET) in this order; `lengths` are their prompts' in tokens.

    "easy_to_hard" goes by `pass_rate`, highest first; questions that were not rated come last. "length_bucketed" puts
    `batch` questions of like length after one another, so that the groups of a step waste no padding; which bucket
    comes when is left to chance, and a smaller bucket that may be left over comes last. Raises `TrainingError` where no
    question has a pass rate to go by.
    """
    if order == "easy_to_hard":
        rates = [row["pass_rate"] for row in questions]
        if all(rate is None for rate in rates):
            raise TrainingError(
                "rl.order is easy_to_hard, but no question has a pass rate; "
                "set difficulty.samples so that the student is asked first, or choose another order"
            )
        hardness = [2.0 if rate is None else 1.0 - rate for rate in rates]
        return Cycle(name, questions, lambda shuffled: sorted(shuffled, key=hardness.__getitem__))
    if order == "length_bucketed":
        return Cycle(name, questions, lambda shuffled: bucketed(shuffled, lengths, batch))
    return Cycle(name, questions)


def bucketed(shuffled: Sequence[int], lengths: Sequence[int], batch: int) -> list[int]:
    """Indices in buckets of `batch` alike lengths; buckets come in the order in which their shortest stood.

    >>> bucketed([3, 0, 2, 1, 4], lengths=[5, 9, 5, 9, 30], batch=2)
    [3, 1, 0, 2, 4]
    """
    place = {index: number for number, index in enumerate(shuffled)}
    alike = sorted(shuffled, key=lengths.__getitem__)
    buckets = [alike[start : start + batch] for start in range(0, len(alike), batch)]
    whole = [bucket for bucket in buckets if len(bucket) == batch]
    rest = [bucket for bucket in buckets if len(bucket) < batch]
    whole.sort(key=lambda bucket: place[bucket[0]])
    return [index for bucket in whole + rest for index in bucket]
