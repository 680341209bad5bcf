"""Which ranks of this machine have frozen: they neither give a sign of life nor compute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

SILENCE = 25.0  # seconds without a sign of life of some rank; if it computed nothing in as many more, the job ends


class Pulse:
    """When each rank was last known to live, and what it had computed by then; `pids` are the processes by rank."""

    def __init__(self, pids: Mapping[int, int]):
        self.pids = dict(pids)
        self.heard = dict.fromkeys(self.pids, time.monotonic())
        self.computed = dict.fromkeys(self.pids, 0)

    def felt(self, rank: int, pid: int) -> None:
        """A sign of life."""
        self.heard[rank] = time.monotonic()
        self.computed[rank] = ticks(pid)
        self.pids[rank] = pid

    def frozen(self, running: Iterable[int]) -> int | None:
        """The first of these ranks that is silent and idle, if any."""
        for rank in running:
            if time.monotonic() - self.heard[rank] <= SILENCE:
                continue
            if ticks(self.pids[rank]) <= self.computed[rank]:
                return rank
            self.felt(rank, self.pids[rank])  # on a busy machine, or in a long call of a library
        return None


def ticks(pid: int) -> int:
    """Clock ticks a process has computed for; 0 where the kernel doesn't tell."""
    fields = stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    return stat(pid)[:1] not in ([], ["Z"])


def stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on; none where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []
