"""RLOO: REINFORCE with the mean of the *other* responses as baseline, a whole response being one action.

    1/N sum_i min(s_i A_i, clip(s_i, 1 - e, 1 + e) A_i),   A_i = R_i - mean of R_j (j != i),   s_i = prod_t r_it

On fresh samples its gradient is A_i times that of the response's logprob, neither divided by length nor by deviation.
Source: Ahmadian et al., "Back to basics" (arXiv:2402.14740), the RLOO estimator; the clipped ratio for further
updates as in TRL's RLOOTrainer. The KL, there a part of the reward, is set apart here (`rl.kl`).
"""

import torch
from torch import Tensor

from longrl.training.algorithms.base import Algorithm, by_response, centred
from longrl.training.losses import clipped_policy_loss


class RLOO(Algorithm):
    """REINFORCE leave-one-out; each token carries an equal part of its response's loss."""

    def advantages(self, rewards: Tensor, kept: Tensor) -> Tensor:
        count = kept.sum(1, keepdim=True)
        return centred(rewards, kept) * count / (count - 1).clamp(min=1)  # R - mean of the others

    def loss(self, new: Tensor, old: Tensor, advantages: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ratio = by_response(new - old, lengths)
        loss, clipped = clipped_policy_loss(ratio, torch.zeros_like(ratio), advantages, self.clip_low, self.clip_high)
        return (loss / lengths.clamp(min=1)).repeat_interleave(lengths), clipped.repeat_interleave(lengths)

    def size(self, lengths: Tensor) -> float:
        return float(len(lengths))
