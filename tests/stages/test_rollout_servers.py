"""Rollouts from a real vLLM server, started as a user would."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from longrl.rollout.request import EngineError, EngineLost
from longrl.rollout.server import Servers
from tests.rollouts import agreement, mixed, new_weights_are_used_and_old_prefixes_forgotten, request

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def server(student_folder, tmp_path_factory):
    """A server of the tiny student: its process and URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "longrl.rollout.serve", str(student_folder), "--max-model-len", "512"]
    command += ["--dtype", "float32", "--max-num-seqs", "64", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=os.environ | ENVIRONMENT, stdout=out, stderr=out, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not healthy(url):
            assert process.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield process, url
    finally:
        with suppress(ProcessLookupError):  # a test may have ended it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(url):
    try:
        return httpx2.get(url + "/health", timeout=2).is_success
    except httpx2.TransportError:
        return False


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
