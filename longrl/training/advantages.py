"""Advantages: how much better a response was than its siblings.

GRPO only, for now: the reward standardised within the group of responses to one question. A group whose rewards are all
equal teaches nothing; it is left out of the loss *and* of the loss's token count, and it is counted. (Long-RL's filter
keeps such groups, and falls back to the unfiltered batch.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_relative(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise `rewards` (P, G) within each of the P groups.

    Returns the advantages (P, G), float32, (r - mean) / std with the sample standard deviation, and `informative` (P,),
    bool, false where all rewards of a group are equal or one isn't finite; advantages are 0 there.
    Source: DeepSeekMath (arXiv:2402.03300), section 4.1.2, outcome supervision.

    >>> advantages, informative = group_relative(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> advantages.tolist(), informative.tolist()
    ([[0.7071067690849304, -0.7071067690849304], [0.0, 0.0]], [True, False])
    """
    rewards = rewards.float()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = rewards.std(dim=1, keepdim=True)
    informative = deviation[:, 0] > 1e-6  # false for NaN too
    return torch.where(informative[:, None], centred / deviation, 0.0), informative
