"""VILA and LLaVA-OneVision on two real ranks: what they compute together is what one computes alone."""

import pytest

from longrl.training.launch import launch
from tests.siglip_prompts import BUILDERS


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    folders = {family: str(build(folder / family)) for family, build in BUILDERS.items()}
    messages: list[dict] = []
    launch("tests.distributed.siglip_loop", {"folders": folders}, 2, folder, messages.append)
    return [message for message in messages if message["kind"] == "compared"]


@pytest.mark.slow  # two ranks of their own
@pytest.mark.parametrize("family", BUILDERS)
def test_shared_rows_and_shared_videos_equal_those_of_one_rank(heard, family):
    found = [message for message in heard if message["family"] == family]
    assert len(found) == 2
    for each in found:
        assert each["logprobs"] < 1e-4
        assert each["gradients"] < 1e-4
        assert each["embeddings"]  # bit by bit
