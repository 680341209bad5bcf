"""Server and worker of `make ui` are kept, and a run does not outlive its worker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.part import Part
from flows.server import ServerError
from tests.flows.killing import until, words
from tests.flows.serving import ROOT

RUN = """
import signal, sys, time
from pathlib import Path
from deployments.lifeline import end_with_worker

signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[1]).write_text("reported"), sys.exit()))
end_with_worker()
Path(sys.argv[1]).touch()
time.sleep(60)
"""
WORKER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"


def test_a_part_that_is_killed_is_started_again_and_ends_with_all_it_started(tmp_path):
    part = Part("worker", ["http.server", "0", "--bind", "127.0.0.1"], dict(os.environ), tmp_path)
    part.keep()
    (first,) = part.left()
    os.kill(first, signal.SIGKILL)
    part.process.wait()
    part.keep()
    (second,) = part.left()
    assert second != first
    part.end()
    assert part.left() == set()


def test_a_part_that_ends_again_and_again_is_given_up(tmp_path, capfd):
    part = Part("server", ["this"], dict(os.environ), tmp_path)
    for _ in range(2):
        part.process.wait()
        part.keep()
    part.process.wait()
    with pytest.raises(ServerError, match=r"the server ends again and again.*server\.log"):
        part.keep()
    assert capfd.readouterr().err.count("starting it again") == 2


def test_a_part_that_answers_is_kept_however_often_it_is_killed(tmp_path):
    part = Part("server", ["http.server", "0"], dict(os.environ), tmp_path, answers=lambda: True)
    for _ in range(4):
        part.keep()
        part.process.kill()
        part.process.wait()
        part.keep()
    assert part.process.poll() is None
    part.end()


def test_a_run_whose_worker_is_killed_ends_as_if_it_were_asked_to(tmp_path):
    told = tmp_path / "told"
    worker = subprocess.Popen([sys.executable, "-c", WORKER, RUN, str(told)], cwd=ROOT)
    until(told.exists, 30, "the run's start")
    (run,) = map(int, Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split())
    worker.kill()
    worker.wait()
    until(lambda: told.read_text() == "reported", 10, "the run's report")
    until(lambda: not words(run), 10, "the run's end")
