"""Where a step's seconds go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds by name. Inside a span another may be open: each second counts for the innermost alone.

    >>> clock = Stopwatch()
    >>> with clock("outer"), clock("inner"):
    ...     pass
    >>> sorted(clock.taken())
    ['inner', 'outer']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._mark = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens inside; on a GPU, until it has finished it."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def taken(self) -> dict[str, float]:
        """Seconds since the last call, by name."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds

    def _switch(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        if self._open:
            self._seconds[self._open[-1]] += now - self._mark
        self._mark = now
