"""The RL algorithms written out from their papers, token by token, without a look at longrl's own.

Rewards are lists of groups, None for a response that is masked; logprobs are a tensor for each response.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

Groups = Sequence[Sequence[float | None]]


def there(group: Sequence[float | None]) -> list[float]:
    return [reward for reward in group if reward is not None]


def advantages(name: str, groups: Groups) -> list[list[float]]:
    """The advantage of every response; 0 for masked ones."""
    everything = [reward for group in groups for reward in there(group)]
    if name == "reinforce++":
        mean, deviation = statistics.mean(everything), statistics.stdev(everything)
        return [[0.0 if r is None else (r - mean) / deviation for r in group] for group in groups]
    if name == "reinforce++-baseline":
        left = [[None if r is None else r - statistics.mean(there(group)) for r in group] for group in groups]
        deviation = statistics.stdev([value for group in left for value in there(group)])
        return [[0.0 if value is None else value / deviation for value in group] for group in left]
    result = []
    for group in groups:
        kept = there(group)
        if len(kept) < 2 or max(kept) - min(kept) < 1e-6:
            result.append([0.0] * len(group))
        elif name == "rloo":
            result.append([0.0 if r is None else r - (sum(kept) - r) / (len(kept) - 1) for r in group])
        elif name == "dr_grpo":
            result.append([0.0 if r is None else r - statistics.mean(kept) for r in group])
        else:
            mean, deviation = statistics.mean(kept), statistics.stdev(kept)
            result.append([0.0 if r is None else (r - mean) / deviation for r in group])
    return result


def pessimistic(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    free, held = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return -(free if free <= held else held)


def loss(
    name: str,
    new: Sequence[Tensor],
    old: Sequence[Tensor],
    advantage: Sequence[float],
    low: float,
    high: float,
    longest: int,
    importance: Sequence[Tensor],
    penalty: Sequence[Tensor],
) -> Tensor:
    """The loss over these responses, a scalar; `importance` weighs tokens, `penalty` (the weighed KL) is added."""
    responses, tokens = len(new), sum(len(row) for row in new)
    total = torch.zeros((), dtype=new[0].dtype)
    for now, then, a, weigh, extra in zip(new, old, advantage, importance, penalty, strict=True):
        if name == "gspo":
            whole = pessimistic(((now - then).sum() / len(now)).exp(), a, low, high)
        elif name == "rloo":
            whole = pessimistic((now - then).sum().exp(), a, low, high) / len(now)
        for t in range(len(now)):
            ratio = (now[t] - then[t]).exp()
            if name in ("gspo", "rloo"):
                value = whole
            elif name == "cispo":
                value = -min(math.exp(float(now[t].detach() - then[t])), 1 + high) * a * now[t]
            else:
                value = pessimistic(ratio, a, low, high)
            value = value * weigh[t] + extra[t]
            if name in ("grpo", "gspo"):
                total = total + value / len(now) / responses
            elif name == "dr_grpo":
                total = total + value / longest / responses
            elif name == "rloo":
                total = total + value / responses
            else:
                total = total + value / tokens
    return total
