"""Qwen2.5-Omni with its sequences shared by two real ranks: the logprobs and gradients of one."""

import pytest

from longrl.training.launch import launch
from tests.families import build


@pytest.mark.slow  # two ranks, 20 s
def test_rows_in_which_video_and_sound_alternate_are_shared_exactly(tmp_path):
    messages: list[dict] = []
    folder = build(tmp_path / "model", "qwen2_5_omni")
    launch("tests.distributed.omni_loop", {"model": str(folder)}, 2, tmp_path, messages.append)
    found = [message for message in messages if message["kind"] == "compared"]
    assert [message["tokens"] for message in found] == [31, 31]
    for message in found:
        assert message["logprobs"] < 1e-5, message
        assert message["gradients"] < 1e-4, message
