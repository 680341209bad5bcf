"""One rank of a training job: `python -m longrl.training.rank <module> <job.json>`, started by `launch`.

Before anything heavy is imported the rank makes sure it can't outlive its launcher: Linux is asked to kill it with its
parent, and a thread watches a pipe that only the launcher holds open, whose end takes down the whole process group
(ranks and whatever they started). Then `module.main(job, messages)` runs.

Messages to the launcher are JSON lines on a pipe of their own; stdout and stderr are free for any library's noise.
Every few seconds one says that the rank is alive, and for how long it has been waiting in collectives.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from longrl.errors import LongrlError, Transient

LIFELINE, MESSAGES = "LONGRL_LIFELINE_FD", "LONGRL_MESSAGES_FD"
PR_SET_PDEATHSIG = 1
BEAT = 2.0  # seconds between signs of life
IDLE = 0.05  # share of a core below which a process does nothing
COLLECTIVES = "distributed_c10d.py"  # torch's module in which a rank waits for the others


class TrainingError(LongrlError):
    """Training can't go on; the message says why and what to do. It reaches the person as it is, without a log."""


class RankLost(TrainingError, Transient):
    """A rank was killed, froze or waits forever; run again, the stage goes on from its last checkpoint."""


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
    """From now on say every `BEAT` seconds that this process lives, and for how long it waits in a collective.

    Waiting is: the main thread is in a collective and has not been awake since the last beat, and the process (a
    transfer has a thread of its own) computes less than `IDLE`. Only Linux tells; elsewhere no rank ever waits.
    """
    rank, main_thread = int(os.environ["RANK"]), threading.main_thread()

    def tell() -> None:
        used, wakes, since = 0.0, "", time.monotonic()
        while True:
            before, used = (used, wakes), time.process_time()
            wakes = times_awake(main_thread.native_id)
            rests = wakes == before[1] != "" and used - before[0] < IDLE * BEAT
            if not rests or not in_collective(sys._current_frames().get(main_thread.ident or 0)):
                since = time.monotonic()
            messages.send("alive", rank=rank, waiting=round(time.monotonic() - since, 1))
            time.sleep(BEAT)

    threading.Thread(target=tell, daemon=True, name="beat").start()


def times_awake(thread: int | None) -> str:
    """How often a thread has been put to sleep or interrupted, as the kernel writes it; empty where it doesn't."""
    try:
        lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
    except OSError:
        return ""
    return " ".join(line for line in lines if "ctxt_switches" in line)


def in_collective(frame: FrameType | None) -> bool:
    """Whether this stack waits for other ranks."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(COLLECTIVES):
            return True
        frame = frame.f_back
    return False


def main(module: str, job: str) -> None:
    """Run `module.main(job, messages)`; a `LongrlError`, written for people, is sent to the launcher."""
    die_with_launcher(int(os.environ[LIFELINE]))
    messages = Messages(int(os.environ[MESSAGES]))
    beat(messages)
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
