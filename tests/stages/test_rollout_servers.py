"""Rollouts from a real vLLM server, started as a user would."""

import os
import signal

import pytest

from longrl.rollout.request import EngineError, EngineLost
from longrl.rollout.server import Servers
from tests.rollouts import agreement, mixed, new_weights_are_used_and_old_prefixes_forgotten, request
from tests.served import served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(student_folder, tmp_path_factory):
    """A server of the tiny student: its process and URL."""
    with served(student_folder, tmp_path_factory.mktemp("server") / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def student(loaded_student):
    return loaded_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def servers(server, student, folder):
    _, url = server
    return Servers([url + "/v1"], [url], student, folder)


def test_a_server_rolls_out_what_the_trainer_would(servers, student):
    requests = mixed(student)
    rollouts = servers.generate(requests)
    assert agreement(student, requests, rollouts).largest < 1e-3
    assert rollouts == servers.generate(requests)
    assert len({tuple(rollout.token_ids) for rollout in rollouts[0]}) == 4
    cool = mixed(student, temperature=0.6)
    assert agreement(student, cool, servers.generate(cool), 0.6).largest < 1e-3
    first, second = servers.generate([request(student, temperature=0.0, n=2)])[0]
    assert first == second


def test_new_weights_reach_the_server_and_old_prefixes_are_forgotten(servers, student, folder):
    new_weights_are_used_and_old_prefixes_forgotten(servers, student)
    assert not list(folder.iterdir())


def test_what_cannot_be_done_is_refused_in_words(servers, student):
    with pytest.raises(EngineError, match="larger max_model_len"):
        servers.generate([request(student, max_tokens=500)])
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        servers.update_weights({})


def test_a_server_that_dies_is_named(server, servers, student, folder):
    process, url = server
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(EngineLost, match=f"{url} can't be reached"):
        servers.generate([request(student)])
    with pytest.raises(EngineLost, match=r"does not come up .* longrl\.rollout\.serve"):
        Servers([url], [], student, folder, patience=0.0)
