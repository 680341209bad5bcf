"""GSPO: one ratio for a whole response, the geometric mean of its tokens' ratios, clipped as one.

    1/N sum_i min(s_i A_i, clip(s_i, 1 - e_low, 1 + e_high) A_i),   s_i = exp(1/|o_i| sum_t log r_it)

Source: Zheng et al., "Group sequence policy optimization" (arXiv:2507.18071), equations 5 to 7; clip ranges from
section 5.1. They are three orders smaller than those of tokens, since a mean over a response moves little.
"""

import torch
from torch import Tensor

from longrl.training.algorithms.base import PerResponse, by_response
from longrl.training.losses import clipped_policy_loss


class GSPO(PerResponse):
    """Group sequence policy optimization; each token carries its response's loss."""

    clip = (3e-4, 4e-4)

    def loss(self, new: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ratio = by_response(new - old, lengths) / lengths.clamp(min=1)
        loss, clipped = clipped_policy_loss(ratio, torch.zeros_like(ratio), advantages, self.clip_low, self.clip_high)
        return loss.repeat_interleave(lengths), clipped.repeat_interleave(lengths)
