"""GRPO: the reward standardised in its group, PPO's clipped loss, a mean over each response and then over responses.

    1/N sum_i 1/|o_i| sum_t min(r_it A_i, clip(r_it, 1 - e, 1 + e) A_i),   A_i = (R_i - mean(R)) / std(R)

Source: DeepSeekMath (arXiv:2402.03300), equation 3 and section 4.1.2. The KL term is set apart (`rl.kl`).
"""

from longrl.training.algorithms.base import PerResponse


class GRPO(PerResponse):
    """Group relative policy optimization."""
