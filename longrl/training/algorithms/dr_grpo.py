"""Dr. GRPO: GRPO without the two divisions that bias it, by the response's length and by the group's deviation.

    1/N sum_i 1/L sum_t min(r_it A_i, clip(r_it, 1 - e, 1 + e) A_i),   A_i = R_i - mean(R)

L is a constant; as in the authors' code it is the longest response allowed (`rl.max_tokens`).
Source: Liu et al., "Understanding R1-Zero-like training" (arXiv:2503.20783), section 3.2.
"""

from torch import Tensor

from longrl.training.algorithms.base import Algorithm, centred


class DrGRPO(Algorithm):
    """GRPO done right."""

    def advantages(self, rewards: Tensor, kept: Tensor) -> Tensor:
        return centred(rewards, kept)

    def size(self, lengths: Tensor) -> float:
        return float(len(lengths) * self.max_tokens)
