"""The global concurrency limits of the Prefect server that runs share: `gpu` and `teacher`.

`make ui`, `python -m deployments.register` and every server that a command starts for itself create them (see
`flows.bootstrap`); a server without them is an error, for what is not limited there would only be found out later.

1. A stage that computes on GPUs holds one slot of `gpu` while it computes, on lease: a slot whose holder was killed is
   free again after `LEASE` seconds. A server that is away for a while does not end the stage.
2. A request to a teacher's server takes one slot of `teacher`, whose slots decay: that many requests a second. They are
   taken in small batches, so that a fast teacher asks the Prefect server for leave only now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.asyncio import rate_limit
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound

from longrl.errors import LongrlError
from longrl.limits import LIMITS, limited

GPU, TEACHER = "gpu", "teacher"
LEASE = 60.0  # seconds, the shortest that Prefect gives
BATCH = 20  # requests to a teacher that one question to the Prefect server may stand for
SHARE = 10  # at most this part of the limit at once, so that several runs get their turns

log = logging.getLogger("longrl.tasks")


class LimitMissing(LongrlError):
    """The Prefect server has no such concurrency limit, or one that can't be used as it is."""


def limit(name: str) -> GlobalConcurrencyLimitResponse:
    """The limit of the server; raises `LimitMissing`."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise LimitMissing(
                f"the Prefect server {client.api_url} has no concurrency limit {name!r}; create it with "
                f"`python -m deployments.register`, or by hand: prefect gcl create {name} --limit 1"
            ) from error


@contextmanager
def gpu() -> Iterator[None]:
    """Hold a slot of `gpu`; waits until one is free. Raises `LimitMissing`."""
    found = limit(GPU)
    if found.active_slots >= found.limit:
        log.info("waits: other runs hold all %d slots of the limit `%s`", found.limit, GPU)
    context = TaskRunContext.get()
    holder = ConcurrencyLeaseHolder(type="task_run", id=context.task_run.id) if context else None
    with ExitStack() as held:
        held.enter_context(
            concurrency(GPU, strict=True, lease_duration=LEASE, holder=holder, raise_on_lease_renewal_failure=False)
        )
        yield


def on_gpu() -> AbstractContextManager[None]:
    """What computes in here holds a slot of `gpu`, within the other limits there are."""
    return limited(gpu, LIMITS.get().calling)


class Turns:
    """Leave to ask a teacher, one request at a time, within the rate that all runs share."""

    def __init__(self) -> None:
        self._left = 0
        self._batch = 0
        self._asking: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}  # a stage may run several loops, one by one

    async def take(self) -> None:
        """Return when one more request may be sent. Raises `LimitMissing`."""
        if not self._batch:
            found = await asyncio.to_thread(limit, TEACHER)
            if not found.slot_decay_per_second:
                raise LimitMissing(
                    f"the concurrency limit {TEACHER!r} has no slot decay, so it is no rate; set one: "
                    f"prefect gcl update {TEACHER} --slot-decay-per-second 50"
                )
            self._batch = max(1, min(BATCH, found.limit // SHARE))
        async with self._asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if not self._left:
                await rate_limit(TEACHER, occupy=self._batch, strict=True)
                self._left = self._batch
            self._left -= 1
