"""Worker processes for untrusted files: they may hang, crash or grow without end, and the run goes on.

Not a ProcessPoolExecutor: there a hanging decoder blocks the pool for ever and a crashing one breaks it. Here each
worker is a fresh interpreter (so a decoder's threads start after any fork, and no `__main__` is imported again), is
replaced after `RECYCLE` jobs, is killed when it gives no sign of life for `patience` seconds or holds more than
`memory` MiB, and ends itself when its parent is gone.

Memory is watched, not limited with `setrlimit`: a limit on addresses counts what is only reserved, and a decoder that
meets it may crash or return half a frame instead of saying so. What counts is what the process alone holds (`RssAnon`),
without the files it has mapped.
"""

from __future__ import annotations

import os
import pickle
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

PATIENCE = 60.0  # seconds without a sign of life
MEMORY = 4096.0  # MiB of one worker process: an 8K film with its reference frames fits
RECYCLE = 500  # jobs of one worker process
LOOK = 0.2  # seconds between looks at a working process

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerLost(RuntimeError):
    """The worker hung or grew and was killed, or died; the message says which. Belongs to the job it was working on.

    `rule` is the kind in one word: hangs, memory or crashes.
    """

    def __init__(self, message: str, rule: str):
        super().__init__(message)
        self.rule = rule


class Crew:
    """At most `workers` processes, started when they are needed and kept between jobs; any thread may call."""

    def __init__(self, workers: int, patience: float = PATIENCE, memory: float = MEMORY):
        self.patience, self.memory = patience, memory
        self._places = threading.Semaphore(max(1, workers))
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._stop = threading.Event()

    def call(self, function: Callable[[Job], Result], job: Job) -> Result:
        """`function(job)`, done by a worker; waits for a free one.

        Raises what the function raised, with the worker's traceback as a note, or `WorkerLost`. The function must be
        importable by name; job and result must be picklable.
        """
        with self._places:
            try:
                worker = self._idle.get_nowait()
            except queue.Empty:
                worker = _Worker()
            result = worker.do(function, job, self.patience, self.memory, self._stop)
            if worker.jobs >= RECYCLE:
                worker.end()
            elif not worker.connection.closed:
                self._idle.put(worker)
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Let the workers go; one that is still at work is killed, and its job is lost."""
        self._stop.set()
        while not self._idle.empty():
            self._idle.get().end()


def run_jobs(
    function: Callable[[Job], Any],
    jobs: Iterable[Job],
    workers: int,
    expected: tuple[type[Exception], ...] = (),
    patience: float = PATIENCE,
    ahead: int = 0,
    memory: float = MEMORY,
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
    crew, stop = Crew(workers, patience, memory), threading.Event()

    def lead() -> None:
        """One thread per worker: hands it jobs."""
        while not stop.is_set():
            try:
                job = waiting.pop()
            except IndexError:
                return
            try:
                result = crew.call(function, job)
            except Exception as error:
                result = error
            while not stop.is_set():
                try:
                    done.put((job, result), timeout=LOOK)
                    break
                except queue.Full:
                    continue

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
        crew.close()
        for thread in threads:
            thread.join()
        crew.close()


_crews: dict[int, Crew] = {}  # by process: a fork must not share its parent's workers
_founding = threading.Lock()


def apart(function: Callable[[Job], Result], job: Job) -> Result:
    """`function(job)` in a worker that this process keeps, one a core; done at once where this is a worker already.

    Raises what `Crew.call` raises.
    """
    if _alive is not None:
        return function(job)
    with _founding:
        crew = _crews.get(os.getpid())
        if crew is None:
            crew = _crews[os.getpid()] = Crew(len(os.sched_getaffinity(0)))
    return crew.call(function, job)


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

    def do(self, function: Callable, job: Any, patience: float, memory: float, stop: threading.Event) -> Any:
        """The function's result or the exception it raised; `WorkerLost`, and a closed connection, when it is lost."""
        self.jobs += 1
        try:
            self.connection.send((function, job))
            deadline = time.monotonic() + patience
            while not stop.is_set():
                if self.connection.poll(LOOK):
                    kind, value = self.connection.recv()
                    if kind == "done":
                        return value
                    deadline = time.monotonic() + patience
                elif time.monotonic() > deadline:
                    self.kill()
                    return WorkerLost(f"no sign of life for {patience:g} s; the decoder hangs on this file", "hangs")
                if self.held() > memory:
                    self.kill()
                    return WorkerLost(
                        f"the decoder needs more than {memory:g} MiB of memory for this file; make it smaller", "memory"
                    )
            self.kill()
            return WorkerLost("stopped", "hangs")
        except (EOFError, ConnectionError):
            self.process.wait()
            self.connection.close()
            return WorkerLost(f"the worker died on this file (exit status {self.process.returncode})", "crashes")

    def held(self) -> float:
        """MiB of memory that only this process holds; 0 when it is gone."""
        try:
            found = re.search(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        except OSError:
            return 0.0
        return int(found[1]) / 1024 if found else 0.0

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
