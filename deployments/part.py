"""The server or the worker of `make ui`: a process that is kept, and that is ended with all it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from deployments.register import ROOT
from flows.server import ServerError

GRACE = {"worker": 15.0, "server": 8.0}  # seconds to end by themselves
RUN_GRACE = 30.0  # seconds that all runs together may take to end
FALLS = 3  # times in a row that a part may end before it was of use, until it is given up
STEADY = 10.0  # seconds after which it counts as of use; the server also once it answers


class Part:
    """The server or the worker: a process that leads a session of its own, and is started again when it is killed."""

    def __init__(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        home: Path,
        answers: Callable[[], bool] = lambda: False,
    ):
        self.name, self.log, self._answers = name, home / f"{name}.log", answers
        self._command, self._env, self._falls = command, env, 0
        self.leaders: list[int] = []  # of all its sessions so far
        self.start()

    def start(self) -> None:
        """Start the process, its output appended to the log."""
        self._started, self._steady = time.monotonic(), False
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.leaders.append(self.process.pid)

    def keep(self) -> None:
        """Start it again if it has ended; raises `ServerError` when it does so again and again."""
        if (status := self.process.poll()) is None:
            self._steady = self._steady or time.monotonic() - self._started > STEADY or self._answers()
            return
        self._falls = 1 if self._steady else self._falls + 1
        if self._falls == FALLS:
            raise ServerError(f"the {self.name} ends again and again; its last words are in {self.log}")
        say(f"the {self.name} ended (status {status}); starting it again", sys.stderr)
        self.start()

    def end(self) -> None:
        """Ask the process to end, its runs first, and end whatever is then left of its sessions."""
        end_children(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(GRACE[self.name])
        except subprocess.TimeoutExpired:
            say(f"the {self.name} takes too long; killing it", sys.stderr)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.left():
                tell(pid, number)
            deadline = time.monotonic() + 5.0
            while self.left() and time.monotonic() < deadline:
                self.process.poll()
                time.sleep(0.1)

    def left(self) -> set[int]:
        """Processes that it started, however far removed, and that still run."""
        return {pid for leader in self.leaders for pid in session(leader)}


def end_children(leader: int) -> None:
    """Ask the children of a session's leader to end, and give them time to."""
    children = {pid for pid, parent in session(leader).items() if parent == leader}
    for pid in children:
        tell(pid, signal.SIGTERM)
    deadline = time.monotonic() + RUN_GRACE
    while children & session(leader).keys() and time.monotonic() < deadline:
        time.sleep(0.2)


def say(words: str, stream: TextIO) -> None:
    """Print; a terminal that has been closed must not keep anything from being ended."""
    with suppress(OSError):
        print(words, file=stream, flush=True)


def tell(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def session(leader: int) -> dict[int, int]:
    """Processes of a session that still run, each with its parent."""
    members = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, sid = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it ended while we looked
            continue
        if int(sid) == leader and state != "Z":
            members[int(stat.parent.name)] = int(parent)
    return members
