"""Every family's packed rows, shared by two real ranks, give one rank's logprobs and gradients."""

import pytest

from longrl.training.launch import launch
from tests.families import ANY_SIZE, CASES, build

VALUES, GRADIENTS = 2e-5, 2e-4  # float32, as in test_family_equality


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    models = {family: str(build(folder / family, family)) for family in ANY_SIZE}
    messages: list[dict] = []
    launch("tests.distributed.family_shards_loop", {"models": models}, 2, folder, messages.append)
    return messages


@pytest.mark.slow  # half a minute for all families together
@pytest.mark.parametrize(("family", "modality"), [case for case in CASES if case[0] in ANY_SIZE])
def test_two_ranks_share_a_family_s_rows(heard, family, modality):
    found = [m for m in heard if m["kind"] == "compared" and (m["family"], m["modality"]) == (family, modality)]
    assert len(found) == 2
    for errors in found:
        assert errors["left_over"] == 1
        assert errors["logprobs"] < VALUES, errors
        assert errors["gradients"] < GRADIENTS, errors
