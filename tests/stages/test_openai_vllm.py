"""The openai teacher against a real vLLM server: its model writes noise, so what is tested is that structure holds."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from longrl.config import CurateSettings
from longrl.data.caption import caption
from longrl.data.curate import curate
from longrl.data.reason import reason
from longrl.teachers import prompts
from longrl.teachers.notes import notes_of
from longrl.teachers.server import Server
from longrl.warehouse.artifacts import Warehouse
from tests.stages.noise_model import build_noise_model
from tests.stages.teaching import CAPTIONED, caption_settings, corpus, reason_settings, server_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
OPTIONS = {
    "--served-model-name": "noise",
    "--host": "127.0.0.1",
    "--dtype": "float32",
    "--max-model-len": "12288",
    "--max-num-seqs": "8",
    "--structured-outputs-config": '{"backend":"xgrammar","disable_any_whitespace":true}',
}


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory):
    """A vLLM server on a free port, ended with the module's tests."""
    folder = tmp_path_factory.mktemp("vllm")
    model = build_noise_model(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # as longrl's own engines
    environment = os.environ | threads | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    for name, value in (OPTIONS | {"--model": str(model), "--port": str(port)}).items():
        command += [name, value]
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 300
        while not healthy(port):
            assert process.poll() is None, f"the server ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"the server is not up after 300 s:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def healthy(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
    except (urllib.error.URLError, OSError):
        return False
    return True


def test_structured_output_follows_the_schema(vllm_url):
    server = Server(server_settings(vllm_url, model="", temperature=1.0, timeout=120.0, max_tokens=4000), "reason")
    assert server.model == "noise"
    texts = []
    messages, schema = prompts.question_messages(notes_of(CAPTIONED), "plot", 2), prompts.question_schema(2)
    server.run([None], lambda _: server.complete(messages, schema), lambda _, text: texts.append(text))
    questions = json.loads(texts[0])["questions"]
    assert 1 <= len(questions) <= 2
    for question in questions:
        assert list(question) == ["question", "options", "evidence", "reasoning", "conclusion", "answer"]
        assert len(question["options"]) == 4
        assert question["answer"] in "ABCD"


def test_from_real_files_to_the_dataset(vllm_url, tmp_path):
    """Frames in, captions and questions back; all of it ends in an output or in rejects with a reason."""
    warehouse = Warehouse(tmp_path / "warehouse")
    videos, clips = corpus(warehouse, tmp_path)
    options = {"model": "", "temperature": 1.0, "timeout": 120.0, "max_tokens": 4000, "language": ""}
    captions = caption(caption_settings(vllm_url, **options), videos, clips, warehouse)
    assert captions.rows + captions.rejects == clips.rows == 6
    assert set(captions.rejected()["reason"]) <= {"the model gave an empty answer"}
    assert captions.facts()["teacher"]["model"] == "noise"
    assert captions.facts()["calls"]["requests"] == 6
    assert captions.facts()["calls"]["prompt_tokens"] > 6 * 1000  # as the server counts them
    questions = reason(reason_settings(vllm_url, 8, **options), captions, warehouse, 0)
    assert questions.rows >= 1
    assert not [text for text in questions.rejected()["reason"] if "JSON" in text or "server" in text]
    dataset = curate(CurateSettings(), captions, questions, warehouse, 0)
    assert dataset.rows + dataset.rejects == questions.rows
