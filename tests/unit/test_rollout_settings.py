"""Where rollouts are made is checked before anything starts, and is no part of what is made."""

import pytest
from pydantic import ValidationError

from longrl.config import RlSettings, RolloutSettings


def rl(ranks: int, **rollout) -> RlSettings:
    return RlSettings(ranks=ranks, rollout=RolloutSettings(**rollout))


def test_how_rollouts_are_made_is_not_in_the_key():
    servers = ("http://a:8000", "http://b:8000")
    assert rl(2).identity() == rl(2, servers=servers).identity() == rl(2, tensor_parallel=2, sleep=True).identity()


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [
        ({"tensor_parallel": 3}, r"tensor_parallel is 3, which must divide rl\.ranks \(4\)"),
        ({"tensor_parallel": 2, "servers": ("http://a:8000",)}, "start the servers with theirs"),
        ({"memory_share": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_cannot_work_is_refused(rollout, reason):
    with pytest.raises(ValidationError, match=reason):
        rl(4, **rollout)
