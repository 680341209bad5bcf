"""DAPO: GRPO with a mean over tokens, a wider clip range above than below, and only groups whose rewards differ.

    1/sum_i |o_i| sum_i sum_t min(r_it A_i, clip(r_it, 1 - e_low, 1 + e_high) A_i),   0 < right answers of a group < G

Its other two parts are settings that any algorithm can have: groups without a difference are replaced by others in
further rounds of rollouts (`rl.refills`), and long responses are punished (the reward `overlong`). With neither of them
it is what longrl's default recipe trains with.
Source: Yu et al., "DAPO" (arXiv:2503.14476), equation 8; clip ranges from section 4.1.
"""

from longrl.training.algorithms.base import Algorithm


class DAPO(Algorithm):
    """Decoupled clip and dynamic sampling policy optimization."""

    clip = (0.2, 0.28)
    drops_equal = True
