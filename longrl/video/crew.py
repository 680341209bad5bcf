"""Worker processes for untrusted files: they may hang, crash or leak, and the run goes on.

Not a ProcessPoolExecutor: there a hanging decoder blocks the pool for ever and a crashing one breaks it. Here each
worker is a fresh interpreter (so decord's threads start after any fork, and no `__main__` is imported again), is
replaced after `RECYCLE` jobs, is killed when it gives no sign of life for `patience` seconds, and ends itself when
its parent is gone.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

PATIENCE = 60.0  # seconds without a sign of life
RECYCLE = 500  # jobs of one worker process

Job = TypeVar("Job")


class WorkerLost(RuntimeError):
    """The worker hung and was killed, or died; the message says which. Belongs to the job it was working on."""


def run_jobs(
    function: Callable[[Job], Any],
    jobs: Iterable[Job],
    workers: int,
    expected: tuple[type[Exception], ...] = (),
    patience: float = PATIENCE,
    ahead: int = 0,
) -> Iterator[tuple[Job, Any]]:
    """Yield `(job, function(job))` as jobs finish, in any order.

    With `ahead` the workers pause while so many results wait to be taken, which bounds the memory they need.
    A `WorkerLost` or an `expected` exception is yielded in place of the result; any other exception is raised here,
    with the worker's traceback. `function` must be importable by name; jobs and results must be picklable.
    """
    waiting = list(jobs)[::-1]
    if not waiting:
        return
    done: queue.Queue[tuple[Job, Any]] = queue.Queue(ahead)
    stop = threading.Event()

    def lead() -> None:
        """One thread per worker: hands it jobs, watches it, replaces it."""
        worker: _Worker | None = None
        while not stop.is_set():
            try:
                job = waiting.pop()
            except IndexError:
                break
            if worker is None or worker.jobs >= RECYCLE:
                if worker is not None:
                    worker.end()
                worker = _Worker()
            result = worker.do(function, job, patience, stop)
            if isinstance(result, WorkerLost):
                worker = None
            while not stop.is_set():
                try:
                    done.put((job, result), timeout=0.2)
                    break
                except queue.Full:
                    continue
        if worker is not None:
            worker.end()

    count = len(waiting)
    threads = [threading.Thread(target=lead, daemon=True) for _ in range(max(1, min(workers, count)))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(count):
            job, result = done.get()
            if isinstance(result, Exception) and not isinstance(result, (WorkerLost, *expected)):
                raise result
            yield job, result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class _Worker:
    """One process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        code = f"from longrl.video.crew import serve; serve({theirs.fileno()}, {os.getpid()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.jobs = 0

    def do(self, function: Callable, job: Any, patience: float, stop: threading.Event) -> Any:
        self.jobs += 1
        try:
            self.connection.send((function, job))
            deadline = time.monotonic() + patience
            while not stop.is_set():
                if not self.connection.poll(0.2):
                    if time.monotonic() > deadline:
                        self.kill()
                        return WorkerLost(f"no sign of life for {patience:g} s; the decoder hangs on this file")
                    continue
                kind, value = self.connection.recv()
                if kind == "done":
                    return value
                deadline = time.monotonic() + patience
            self.kill()
            return WorkerLost("stopped")
        except (EOFError, ConnectionError):
            self.process.wait()
            self.connection.close()
            return WorkerLost(f"the worker died on this file (exit status {self.process.returncode})")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def end(self) -> None:
        """Let an idle worker go: it leaves when its socket closes."""
        if self.connection.closed:
            return
        self.connection.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_alive: Callable[[], None] | None = None


def beat() -> None:
    """Sign of life from within a long job; at most one a second travels. Does nothing outside a worker."""
    if _alive is not None:
        _alive()


def serve(descriptor: int, parent: int) -> None:
    """Main loop of a worker process: receive `(function, job)`, send back what it returned or raised."""
    global _alive
    connection = Connection(descriptor)
    lock, last = threading.Lock(), [0.0]

    def alive() -> None:
        if time.monotonic() - last[0] > 1:
            last[0] = time.monotonic()
            with lock:
                connection.send(("alive", None))

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    _alive = alive
    threading.Thread(target=leave_with_parent, daemon=True).start()
    while True:
        try:
            function, job = connection.recv()
        except EOFError:
            return
        try:
            result: Any = function(job)
        except Exception as error:
            error.add_note(f"in a worker process:\n{traceback.format_exc()}")
            result = _picklable(error)
        with lock:
            connection.send(("done", result))


def _picklable(error: Exception) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error)) and error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n" + "\n".join(getattr(error, "__notes__", [])))
