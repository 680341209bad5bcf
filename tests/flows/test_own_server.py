"""The Prefect server that commands start for themselves: one for all of a folder, and never left behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.killing import KINDS, until, words
from tests.flows.serving import ROOT, processes

FANOUT = """
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows.server import prefect_server


@task
def one(number):
    return number


@flow(task_runner=ThreadPoolTaskRunner(max_workers=50))
def many():
    return sum(one.map(range(500)).result())


with prefect_server():
    print(many())
"""


def environment(home: Path) -> dict[str, str]:
    cleared = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return cleared | {"PREFECT_HOME": str(home), "PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true", "OMP_NUM_THREADS": "1"}


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """`python …` in a session and with a Prefect home of its own."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(folder / "prefect"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def dataset(folder: Path, count: int) -> subprocess.Popen[str]:
    """A command that renders so many stories first."""
    sets = [f"--set=stories.count={count}", "--set=stories.scenes=4"]
    return start(folder, "-m", "flows", "dataset", "--warehouse", str(folder / "warehouse"), *sets)


def servers(home: Path) -> list[int]:
    return [pid for pid in processes(home) if set(KINDS["server"]) <= set(words(pid))]


def rows(home: Path, query: str) -> list[tuple]:
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute(query).fetchall()


def test_a_killed_command_is_reported_and_leaves_no_process(tmp_path):
    home = tmp_path / "prefect"
    command = dataset(tmp_path, 400)
    until(lambda: list((tmp_path / "warehouse/stories").glob(".draft-*")), 180, "the first stage")
    (server,) = servers(home)
    other = start(tmp_path, "-m", "flows.logs", "--no-follow")
    said, _ = other.communicate(timeout=120)
    assert said.startswith("tiny · seed 0")  # it looked at the server of the first
    assert servers(home) == [server]
    command.kill()
    until(lambda: not [pid for pid in processes(home) if words(pid)], 30, "an end of all processes")
    assert rows(home, "SELECT state_type FROM flow_run") == [("CRASHED",)]
    command.communicate()


def test_500_mapped_tasks_meet_no_lock(tmp_path):
    done = start(tmp_path, "-c", FANOUT)
    said, _ = done.communicate(timeout=400)
    assert done.returncode == 0, said
    assert said.splitlines()[-1] == str(sum(range(500)))
    home = tmp_path / "prefect"
    until(lambda: not servers(home), 60, "the server's end")
    assert rows(home, "SELECT state_type, count(*) FROM task_run GROUP BY 1") == [("COMPLETED", 500)]
    assert "database is locked" not in (home / "server.log").read_text()


@pytest.mark.slow
def test_a_server_that_is_killed_is_started_again_and_the_command_finishes(tmp_path):
    home = tmp_path / "prefect"
    command = dataset(tmp_path, 30)
    until(lambda: list((tmp_path / "warehouse/stories").glob(".draft-*")), 180, "the first stage")
    address = json.loads((home / "longrl-server.json").read_text())
    (server,) = servers(home)
    os.kill(server, signal.SIGKILL)
    said, _ = command.communicate(timeout=400)
    assert command.returncode == 0, said
    assert json.loads((home / "longrl-server.json").read_text()) == address
    until(lambda: not servers(home), 60, "the server's end")
    assert rows(home, "SELECT state_type FROM flow_run") == [("COMPLETED",)]
