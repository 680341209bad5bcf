"""Limits that runs share, such as the GPUs of a machine or a teacher's requests a second.

The library uses what is scarce and knows nothing of who else does. Whoever runs a stage says what it has to wait for:

>>> from contextlib import contextmanager
>>> @contextmanager
... def gpu():
...     print("mine")
...     yield
...     print("free again")
>>> with limited(computing=gpu), LIMITS.get().computing():
...     print("computes")
mine
computes
free again

Without it nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


async def at_once() -> None:
    """Wait for nothing."""


@dataclass(frozen=True)
class Limits:
    """What is waited for, and when.

    `computing` is entered before a stage computes an artifact, and left when that is done or has failed; an artifact
    that is there is not waited for. `calling` is awaited before each request to a teacher's server.
    """

    computing: Callable[[], AbstractContextManager[Any]] = nullcontext
    calling: Callable[[], Awaitable[None]] = at_once


LIMITS: ContextVar[Limits] = ContextVar("LIMITS", default=Limits())  # noqa: B039 - it is frozen


@contextmanager
def limited(
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    calling: Callable[[], Awaitable[None]] = at_once,
) -> Iterator[None]:
    """Have the stages that run in here keep to these limits; what they start in other processes does not see them."""
    token = LIMITS.set(Limits(computing, calling))
    try:
        yield
    finally:
        LIMITS.reset(token)
