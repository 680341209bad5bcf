"""CISPO: the importance weight is clipped and detached, so no token loses its gradient.

    1/sum_i |o_i| sum_i sum_t sg(min(r_it, 1 + e_high)) A_i log p_it

There is no lower bound, as in the authors' runs (`rl.clip_low` has no effect).
Source: MiniMax-M1 (arXiv:2506.13585), equations 4 and 5. The upper bound is not told there; 5 is what ScaleRL
(arXiv:2510.13786) found in the middle of a range where it hardly matters.
"""

import torch
from torch import Tensor

from longrl.training.algorithms.base import Algorithm


class CISPO(Algorithm):
    """Clipped importance sampling policy optimization."""

    clip = (1.0, 4.0)

    def loss(self, new: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """A token counts as clipped where its weight is held, though its gradient goes on."""
        ratio = torch.exp(new.detach() - old)
        weight = ratio.clamp(max=1.0 + self.clip_high)
        return -weight * advantages.repeat_interleave(lengths) * new, ratio > weight
