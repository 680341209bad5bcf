"""A real vLLM server of a model folder, started as a user would."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@contextmanager
def served(model, log):
    """The server's process and URL; its words go to the file `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "longrl.rollout.serve", str(model), "--max-model-len", "512"]
    command += ["--dtype", "float32", "--max-num-seqs", "64", "--port", str(port)]
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
