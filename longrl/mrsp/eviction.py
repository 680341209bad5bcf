"""Which embeddings may go when the cache is full: least recently used first, never one that a living process uses.

    <folder>/.pins/<pid>-<random>     the files one process has looked up or written, a line each; locked while it lives
    <folder>/.gate                    a lock: held shared to pin a file, alone to evict

1. A process pins a file before it looks for it, and all its pins last as long as the process. So what a run has encoded
   or read once, it finds again at its last step, whoever else fills the cache.
2. The kernel drops the lock of a process that ends, however it ends: its pins then hold nothing, and the next eviction
   clears them away.
3. Where living processes use more than the limit, the cache outgrows it; a run is never starved.

The locks are flock(2), so all processes of a machine agree, and of all machines where the file system carries locks
(see `longrl.warehouse.sharing`).
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

ENDING = ".safetensors"
LEFT_BEHIND = 3600.0  # seconds after which a half-written file has no writer any more


class Pins:
    """The files under `folder` that this process uses."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._mine: set[Path] = set()
        self._file: TextIO | None = None

    def add(self, path: Path) -> bool:
        """Keep a file, there already or not, for as long as this process lives; True on its first pin."""
        if path in self._mine:
            return False
        with gate(self.folder, fcntl.LOCK_SH):
            if self._file is None:
                (self.folder / ".pins").mkdir(exist_ok=True)
                handle, _ = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=self.folder / ".pins")
                self._file = os.fdopen(handle, "w")
                fcntl.flock(handle, fcntl.LOCK_EX)
            self._file.write(f"{path.relative_to(self.folder)}\n")
            self._file.flush()
        self._mine.add(path)
        return True


def evict(folder: Path, limit: float) -> tuple[int, int]:
    """Delete unpinned files, least recently used first, until all take at most `limit` bytes.

    Returns how many went and how many bytes are left.
    """
    with gate(folder, fcntl.LOCK_EX):
        pinned = living_pins(folder)
        files = []
        for path in folder.glob(f"*/*/*{ENDING}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        for path in folder.glob("*/*/.*.part"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > LEFT_BEHIND:
                    path.unlink()
        total, gone = sum(size for _, size, _ in files), 0
        for _, size, path in sorted(files):
            if total <= limit:
                break
            if str(path.relative_to(folder)) not in pinned:
                with suppress(PermissionError):  # another user's
                    path.unlink(missing_ok=True)
                    total, gone = total - size, gone + 1
    return gone, total


def living_pins(folder: Path) -> set[str]:
    """What living processes have pinned; the lists of dead ones are deleted. Call it with the gate held alone."""
    pinned: set[str] = set()
    for path in (folder / ".pins").glob("*"):
        with path.open("r+") as file:  # NFS wants it open for writing to lock it alone
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                pinned.update(file.read().splitlines())
    return pinned


@contextmanager
def gate(folder: Path, how: int) -> Iterator[None]:
    """Hold the folder's gate, shared (`fcntl.LOCK_SH`) or alone (`fcntl.LOCK_EX`)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".gate").open("a+") as file:  # NFS: for reading to share it, for writing to hold it alone
        fcntl.flock(file, how)
        yield
