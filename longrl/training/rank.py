"""One rank of a training job: `python -m longrl.training.rank <module> <job.json>`, started by `launch`.

Before anything heavy is imported the rank makes sure it can't outlive its launcher: Linux is asked to kill it with its
parent, and a thread watches a pipe that only the launcher holds open, whose end takes down the whole process group
(ranks and whatever they started). Then `module.main(job, messages)` runs.

Messages to the launcher are JSON lines on a pipe of their own; stdout and stderr are free for any library's noise.
Every few seconds one says that the rank is alive. What is logged here (by longrl from INFO, by others from WARNING)
goes to the launcher with its level, beside the rank's own log.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from longrl.errors import LongrlError, Transient

LIFELINE, MESSAGES = "LONGRL_LIFELINE", "LONGRL_MESSAGES"  # each an inherited descriptor's number, or a FIFO's path
LOGS = "LONGRL_RANK_LOGS"  # a folder: set where nobody else writes down what a rank prints
PR_SET_PDEATHSIG = 1
BEAT = 2.0  # seconds between signs of life
LONGEST_RECORD = 300  # characters of a logged text: even when each takes 12 bytes of JSON, the line is one write


class TrainingError(LongrlError):
    """Training can't go on; the message says why and what to do. It reaches the person as it is, without a log."""


class RankLost(TrainingError, Transient):
    """A rank was killed or froze; run again, the stage goes on from its last checkpoint."""


class Messages:
    """The line to the launcher. Lines from several ranks don't mix: each is one write below PIPE_BUF (4,096 bytes)."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def send(self, kind: str, **values: Any) -> None:
        """Send one message; texts that would make it too long are cut."""
        values = {name: value[-2500:] if isinstance(value, str) else value for name, value in values.items()}
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        if len(line) > 4096:
            raise ValueError(f"a message of {len(line)} bytes is too long: {sorted(values)}")
        os.write(self._descriptor, line)

    def progress(self, done: int, note: str = "", stage: str = "") -> None:
        """Tell how many steps are finished."""
        self.send("progress", done=done, note=note, stage=stage)

    def warn(self, message: str) -> None:
        """Tell a person of something that the run survives."""
        self.send("warning", message=message)


class Sent(logging.Handler):
    """Sends what is logged to the launcher, which logs it again in the name of this rank."""

    def __init__(self, messages: Messages):
        super().__init__()
        self._messages, self._rank = messages, int(os.environ["RANK"])

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            text = text if len(text) <= LONGEST_RECORD else f"{text[: LONGEST_RECORD - 1]}…"
            self._messages.send("log", rank=self._rank, level=record.levelno, logger=record.name[:60], text=text)
        except Exception:
            self.handleError(record)


def log_to(messages: Messages) -> None:
    """From now on records go to stderr, which is the rank's log, and to the launcher."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger().addHandler(Sent(messages))
    logging.getLogger("longrl").setLevel(logging.INFO)


def die_with_launcher(lifeline: int) -> None:
    """End this process group as soon as the process at the other end of `lifeline` is gone."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
    if os.getppid() != parent or parent == 1:
        os.killpg(os.getpgid(0), signal.SIGKILL)


def beat(messages: Messages) -> None:
    """From now on say every `BEAT` seconds that this process lives."""
    rank, pid = int(os.environ["RANK"]), os.getpid()

    def tell() -> None:
        while True:
            messages.send("alive", rank=rank, pid=pid)
            time.sleep(BEAT)

    threading.Thread(target=tell, daemon=True, name="beat").start()


def descriptor(name: str, flags: int) -> int:
    """What the launcher's variable `name` leads to, open."""
    place = os.environ[name]
    return int(place) if place.isdigit() else os.open(place, flags)


def print_to(folder: str) -> None:
    """From now on stdout and stderr, of this process and its children, are the rank's log."""
    log = os.open(Path(folder) / f"rank-{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


def main(module: str, job: str) -> None:
    """Run `module.main(job, messages)`; a `LongrlError`, written for people, is sent to the launcher."""
    die_with_launcher(descriptor(LIFELINE, os.O_RDONLY))
    if folder := os.environ.get(LOGS):
        print_to(folder)
    messages = Messages(descriptor(MESSAGES, os.O_WRONLY))
    beat(messages)
    log_to(messages)
    try:
        importlib.import_module(module).main(json.loads(Path(job).read_text()), messages)
    except LongrlError as error:
        messages.send("error", message=str(error))
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # engines leave threads behind that can hang or crash the interpreter's own exit


if __name__ == "__main__":
    # `-m` runs this file as __main__; the loops raise the TrainingError of the imported module.
    from longrl.training.rank import main as imported_main

    imported_main(sys.argv[1], sys.argv[2])
