"""What an RL algorithm decides: how good each response was, what a token's loss is, and what the loss is a mean over.

    loss of the batch = sum over all tokens of weight * loss / sum of `size` over all ranks and micro-batches

N groups of G responses to one question each; R responses of a micro-batch, one after another, with T tokens in all. The
base is the part most have in common: rewards standardised in their group, PPO's clipped loss, and a mean over tokens.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from longrl.training.losses import clipped_policy_loss

EQUAL = 1e-6  # rewards of a group that deviate by less are equal


class Algorithm:
    """Advantages, loss and normalisation; a subclass changes what it does differently.

    `clip` holds its usual clip ranges (below, above 1); `drops_equal` tells whether groups with equal rewards leave the
    loss and what it is a mean over. Where they stay, their advantages are 0 and they count.
    """

    clip: ClassVar[tuple[float, float]] = (0.2, 0.2)
    drops_equal: ClassVar[bool] = False

    def __init__(self, max_tokens: int, clip_low: float | None = None, clip_high: float | None = None):
        self.max_tokens = max_tokens
        self.clip_low = self.clip[0] if clip_low is None else clip_low
        self.clip_high = self.clip[1] if clip_high is None else clip_high

    def advantages(self, rewards: Tensor, kept: Tensor) -> Tensor:
        """Advantages (N, G), float32, of the whole batch's `rewards` (N, G), finite wherever `kept` (N, G, bool).

        Responses that aren't kept count nowhere and get 0.
        """
        return standardised(rewards, kept)

    def loss(self, new: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each token (T,), and where clipping stopped its gradient (T,), bool.

        `new` and `old` are the trainer's logprobs (T,) now and before the batch's first update, `advantages` (R,),
        `lengths` (R,) in tokens.
        """
        advantages = advantages.repeat_interleave(lengths)
        return clipped_policy_loss(new, old, advantages, self.clip_low, self.clip_high)

    def weights(self, lengths: Tensor) -> Tensor:
        """Weight of each token (T,) in the sum over tokens."""
        return torch.ones(int(lengths.sum()), device=lengths.device)

    def size(self, lengths: Tensor) -> float:
        """What responses of these lengths add to the number that the sum over tokens is divided by."""
        return float(lengths.sum())


class PerResponse(Algorithm):
    """A mean over each response's tokens, then over responses."""

    def weights(self, lengths: Tensor) -> Tensor:
        return (1.0 / lengths).repeat_interleave(lengths)

    def size(self, lengths: Tensor) -> float:
        return float(len(lengths))


def moments(rewards: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards (N, G) less the mean of their group's kept ones, 0 where not kept, and the sample standard deviation of
    those (N, 1), 0 where fewer than two are kept.

    >>> values, deviation = moments(torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[True, True, False]]))
    >>> values.tolist(), round(deviation.item(), 4)
    ([[0.5, -0.5, 0.0]], 0.7071)
    """
    count = kept.sum(1, keepdim=True)
    mean = torch.where(kept, rewards, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
    values = torch.where(kept, rewards - mean, 0.0)
    variance = values.double().square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return values, variance.sqrt().to(rewards.dtype)


def varied(rewards: Tensor, kept: Tensor) -> Tensor:
    """Whether a group's kept rewards differ (N,), bool."""
    return moments(rewards, kept)[1][:, 0] > EQUAL


def centred(rewards: Tensor, kept: Tensor) -> Tensor:
    """r - mean within each group, exactly 0 where all rewards of a group are equal."""
    values, deviation = moments(rewards, kept)
    return torch.where(deviation > EQUAL, values, 0.0)


def standardised(rewards: Tensor, kept: Tensor) -> Tensor:
    """(r - mean) / std within each group, 0 where all rewards of a group are equal.

    Source: DeepSeekMath (arXiv:2402.03300), section 4.1.2, outcome supervision.

    >>> everything = torch.ones(2, 2, dtype=torch.bool)
    >>> standardised(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), everything).tolist()
    [[0.7071067690849304, -0.7071067690849304], [0.0, 0.0]]
    """
    values, deviation = moments(rewards, kept)
    return torch.where(deviation > EQUAL, values / deviation, 0.0)


def by_response(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums (R,) of values (T,) over each response's tokens; differentiable.

    >>> by_response(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 0, 1])).tolist()
    [3.0, 0.0, 3.0]
    """
    rows = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return values.new_zeros(len(lengths)).index_add(0, rows, values)
