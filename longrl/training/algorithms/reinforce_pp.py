"""REINFORCE++: no group baseline; rewards are standardised over the whole batch, then PPO's clipped loss over tokens.

    A_i = (R_i - mean over the batch) / std over the batch

It needs no groups, so G may be small. The *baseline* form takes the mean of the group off each reward first and
standardises what is left over the batch: questions of different difficulty are made alike, and still no group's few
samples decide the scale, as they do in GRPO, where a group with one odd reward gets the largest advantages.
Source: Hu et al., "REINFORCE++" (arXiv:2501.03262), sections on global advantage normalisation and on its baseline
form. The KL, there a part of the reward (of the loss in the baseline form), is set apart here (`rl.kl`).
"""

import torch
from torch import Tensor

from longrl.training.algorithms.base import EQUAL, Algorithm, centred, moments, standardised


class ReinforcePP(Algorithm):
    """REINFORCE++; in it a group with equal rewards still teaches, for it is compared with the others."""

    def advantages(self, rewards: Tensor, kept: Tensor) -> Tensor:
        return standardised(rewards.reshape(1, -1), kept.reshape(1, -1)).reshape(rewards.shape)


class ReinforcePPBaseline(ReinforcePP):
    """REINFORCE++ with the group's mean as baseline."""

    def advantages(self, rewards: Tensor, kept: Tensor) -> Tensor:
        left = centred(rewards, kept)
        _, deviation = moments(left.reshape(1, -1), kept.reshape(1, -1))
        return torch.where(deviation > EQUAL, left / deviation, 0.0)
