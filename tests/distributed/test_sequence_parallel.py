"""Rows shared by two and by four real ranks give the logprobs and gradients of separate sequences on one."""

import pytest

from longrl.config import ConfigError, load_config
from longrl.training.launch import launch
from tests.tiny_student import build_student

CASES = {"float32": 1e-5, "float64": 1e-9, "concatenated": 1e-9, "checkpointed and tiled": 1e-9}


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Everything four ranks had to say; the model has four query and two key heads."""
    folder = tmp_path_factory.mktemp("ranks")
    messages: list[dict] = []
    launch(
        "tests.distributed.sequence_loop", {"model": str(build_student(folder / "model"))}, 4, folder, messages.append
    )
    return messages


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("what", CASES)
def test_shared_rows_equal_separate_sequences(heard, what, degree):
    found = [m for m in heard if m["kind"] == "compared" and (m["what"], m["degree"]) == (what, degree)]
    assert len(found) == 4
    for errors in found:
        assert errors["left_over"] > 0  # the ranks don't divide the row
        assert errors["correct"]
        assert max(errors["logprobs"], errors["gradients"], errors["entropy"]) < CASES[what], errors


def test_the_engines_step_counts_every_token_once(heard):
    steps = [message for message in heard if message["kind"] == "stepped"]
    assert len(steps) == 4
    for step in steps:
        assert step["norm"] == pytest.approx(step["expected"], rel=1e-5)


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_a_degree_must_divide_the_ranks(stage):
    with pytest.raises(ConfigError, match=rf"{stage}.sequence_parallel: .*must divide the ranks of all machines"):
        load_config("tiny", {f"{stage}.ranks": "4", f"{stage}.sequence_parallel": "3"})
