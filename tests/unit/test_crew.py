"""Worker processes that hang, crash or raise cost one job, not the run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from longrl.video.crew import Crew, WorkerLost, run_jobs


def test_every_job_gets_its_result():
    assert dict(run_jobs(abs, range(-50, 0), workers=2)) == {job: -job for job in range(-50, 0)}


def test_hanging_job_is_killed_and_the_rest_goes_on():
    results = dict(run_jobs(time.sleep, [0.0, 600, 0.01], workers=1, patience=2))
    assert "no sign of life for 2 s" in str(results.pop(600))
    assert results == {0.0: None, 0.01: None}


def hoard(mebibytes: int) -> int:
    """Hold this much memory for a while."""
    held = bytearray(b"x" * (mebibytes << 20))
    time.sleep(2)
    return len(held) >> 20


def test_job_that_grows_too_large_is_killed_and_the_rest_goes_on():
    results = dict(run_jobs(hoard, [1, 400], workers=1, memory=200))
    assert (results[400].rule, str(results[400])[:40]) == ("memory", "the decoder needs more than 200 MiB of m")
    assert results[1] == 1


def test_kept_worker_serves_many_calls_and_is_replaced_when_lost():
    crew = Crew(workers=1, patience=2)
    first = crew.call(eval, "__import__('os').getpid()")
    assert crew.call(eval, "__import__('os').getpid()") == first != os.getpid()
    with pytest.raises(WorkerLost):
        crew.call(os._exit, 3)
    assert crew.call(eval, "__import__('os').getpid()") != first
    crew.close()


def test_crashing_job_costs_only_itself():
    results = dict(run_jobs(os._exit, [3], workers=1))
    assert isinstance(results[3], WorkerLost)
    assert "exit status 3" in str(results[3])


def test_expected_errors_come_back_and_others_are_raised():
    assert isinstance(dict(run_jobs(int, ["x"], workers=1, expected=(ValueError,)))["x"], ValueError)
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_jobs(int, ["x"], workers=1))


def test_workers_die_with_their_parent():
    code = "import time; from longrl.video.crew import run_jobs; list(run_jobs(time.sleep, [60], 1))"
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 30
    while not (workers := _children(parent.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        main = file.read().split()
    found = [int(child) for child in main]
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found
