"""Ranks start, speak, fail and die together: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from longrl.training.launch import launch
from longrl.training.rank import RankLost, TrainingError

LOOP = """
import logging, os, signal, sys, time
from longrl.training.rank import TrainingError

def main(job, messages):
    rank = int(os.environ["RANK"])
    messages.send("started", rank=rank, pid=os.getpid(), world=int(os.environ["WORLD_SIZE"]))
    match job["what"]:
        case "finish":
            messages.progress(3, "done")
        case "log":
            logging.getLogger("longrl.training").info("rank %d has begun", rank)
            logging.getLogger("longrl.training").debug("nobody wants to know")
            logging.getLogger("somebody.else").info("nor this")
            logging.getLogger("somebody.else").error("ž" * 5000)
        case "crash":
            if rank == 1:
                print("the last words of rank 1", flush=True)
                raise ValueError("broken")
            time.sleep(600)
        case "killed":
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        case "explain":
            if rank == 0:
                raise TrainingError("loss was NaN; lower the learning rate")
            time.sleep(600)
        case "frozen":
            if rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "loop_under_test.py").write_text(LOOP)
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[dict] = []

    def start(what, listen=None):
        launch(
            "loop_under_test", {"what": what}, 2, tmp_path / "draft", lambda m: (seen.append(m), listen and listen(m))
        )
        return seen

    start.seen = seen  # type: ignore[attr-defined]
    return start


def pids(seen) -> list[int]:
    return [message["pid"] for message in seen if message["kind"] == "started"]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(processes: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(gone, processes)):
        time.sleep(0.05)
    return all(map(gone, processes))


def test_messages_of_all_ranks_arrive(run):
    seen = run("finish")
    assert sorted(message["rank"] for message in seen if message["kind"] == "started") == [0, 1]
    assert sum(message["kind"] == "progress" for message in seen) == 2


def test_what_ranks_log_is_logged_here_with_its_level_and_stands_in_their_own_logs(run, caplog, tmp_path):
    caplog.set_level("INFO", logger="longrl")
    run("log")
    told = sorted((record.levelname, record.getMessage()[:47]) for record in caplog.records)
    assert told[:2] == [("ERROR", f"rank {rank}, somebody.else: {'ž' * 24}") for rank in (0, 1)]
    assert told[2][1].startswith("loop_under_test: 2 ranks write to")
    assert told[3:] == [("INFO", f"rank {rank}, longrl.training: rank {rank} has begun") for rank in (0, 1)]
    assert all(len(record.getMessage()) < 400 for record in caplog.records)
    own = (tmp_path / "draft" / ".logs" / "rank-1.log").read_text()
    assert "INFO longrl.training: rank 1 has begun" in own
    assert "ž" * 5000 in own


def test_failed_rank_takes_the_others_down_and_shows_its_log(run):
    with pytest.raises(TrainingError, match=r"(?s)rank 1 exited with status 1.*the last words of rank 1.*broken"):
        run("crash")
    assert wait_until_gone(pids(run.seen))


def test_killed_rank_is_named_with_its_signal(run):
    with pytest.raises(RankLost, match="rank 1 was ended by SIGKILL"):
        run("killed")
    assert wait_until_gone(pids(run.seen))


def test_rank_explains_itself_in_one_line(run):
    with pytest.raises(TrainingError, match=r"^loss was NaN; lower the learning rate$"):
        run("explain")
    assert wait_until_gone(pids(run.seen))


def test_interrupt_ends_even_ranks_that_ignore_sigterm(run, monkeypatch):
    monkeypatch.setattr("longrl.training.launch.GRACE", 0.5)

    def interrupt(message):
        if len(pids(run.seen)) == 2:
            time.sleep(0.3)  # both have set their handlers
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stubborn", interrupt)
    assert wait_until_gone(pids(run.seen), 1.0)


def test_frozen_rank_ends_the_job(run, monkeypatch):
    monkeypatch.setattr("longrl.training.launch.GRACE", 0.5)
    monkeypatch.setattr("longrl.training.pulse.SILENCE", 3.0)
    with pytest.raises(RankLost, match="rank 1 has given no sign of life for 3 s"):
        run("frozen")
    assert wait_until_gone(pids(run.seen))


def test_no_rank_survives_a_sigkilled_launcher(tmp_path):
    (tmp_path / "loop_under_test.py").write_text(LOOP)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from longrl.training.launch import launch
        import json
        launch("loop_under_test", {{"what": "stubborn"}}, 2, Path({str(tmp_path)!r}),
               lambda message: print(json.dumps(message), flush=True))
    """)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    ranks = [json.loads(parent.stdout.readline())["pid"] for _ in range(2)]
    assert not any(map(gone, ranks))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(ranks, 5.0)
