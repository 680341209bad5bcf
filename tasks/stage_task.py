"""The decorator that turns a stage function into a Prefect task: name, retries, timing and the `Cached` state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff

from longrl.errors import Transient
from longrl.warehouse.artifacts import ArtifactRef


async def may_pass(task: Task[..., Any], run: Any, state: State[Any]) -> bool:
    """Retry a lost connection or a lost worker; everything else would fail in the same way again."""
    try:
        await state.aresult()
    except (Transient, ConnectionError, TimeoutError):
        return True
    except BaseException:
        return False
    return False


def stage_task(function: Callable[..., ArtifactRef]) -> Callable[..., ArtifactRef]:
    """Make `function` a task named like it; its result is the artifact, with this run's seconds."""

    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        ref = replace(function(*args, **kwargs), seconds=round(time.monotonic() - started, 2))
        made = f"{ref.rows} rows, {ref.rejects} rejected, {ref.path}"
        return Completed(data=ref, name="Cached" if ref.cached else "Completed", message=made)

    return task(
        name=function.__name__,
        retries=2,
        retry_delay_seconds=exponential_backoff(backoff_factor=5),
        retry_jitter_factor=0.5,
        retry_condition_fn=may_pass,
        persist_result=False,
    )(timed)
