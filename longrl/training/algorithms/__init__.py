"""RL algorithms by name, a file each."""

from longrl.config import RlSettings
from longrl.training.algorithms.base import EQUAL, Algorithm, varied
from longrl.training.algorithms.cispo import CISPO
from longrl.training.algorithms.dapo import DAPO
from longrl.training.algorithms.dr_grpo import DrGRPO
from longrl.training.algorithms.grpo import GRPO
from longrl.training.algorithms.gspo import GSPO
from longrl.training.algorithms.reinforce_pp import ReinforcePP, ReinforcePPBaseline
from longrl.training.algorithms.rloo import RLOO

ALGORITHMS: dict[str, type[Algorithm]] = {
    "grpo": GRPO,
    "dr_grpo": DrGRPO,
    "dapo": DAPO,
    "gspo": GSPO,
    "cispo": CISPO,
    "rloo": RLOO,
    "reinforce++": ReinforcePP,
    "reinforce++-baseline": ReinforcePPBaseline,
}


def algorithm(settings: RlSettings) -> Algorithm:
    """The algorithm these settings name, with their clip ranges where they have any."""
    return ALGORITHMS[settings.algorithm](settings.max_tokens, settings.clip_low, settings.clip_high)


__all__ = ["ALGORITHMS", "EQUAL", "Algorithm", "algorithm", "varied"]
