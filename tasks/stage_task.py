"""The decorator that turns a stage function into a Prefect task.

It gives the task its name, retries and the `Cached` state, has it keep to the limits that runs share, and shows in the
Prefect UI what the stage does: progress, logs, and an account of what it made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial, wraps
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff

from longrl.errors import Transient
from longrl.limits import limited
from longrl.progress import listening
from longrl.warehouse.artifacts import ArtifactRef
from tasks import limits, logs
from tasks.names import run_name
from tasks.progress import ProgressArtifact
from tasks.shown import show


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
    return limited_stage(function, nullcontext)


def gpu_stage_task(function: Callable[..., ArtifactRef]) -> Callable[..., ArtifactRef]:
    """As `stage_task`, for a stage that holds a slot of the limit `gpu` while it computes."""
    return limited_stage(function, limits.gpu)


def limited_stage(
    function: Callable[..., ArtifactRef], computing: Callable[[], AbstractContextManager[None]]
) -> Callable[..., ArtifactRef]:
    """The task of a stage that computes within `computing` and asks its teacher within the limit `teacher`."""

    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        logs.attach()
        started = time.monotonic()
        calling = limits.Turns().take
        with ProgressArtifact(function.__name__) as progress, listening(progress), limited(computing, calling):
            made = function(*args, **kwargs)
        ref = replace(made, seconds=round(time.monotonic() - started, 2))
        show(ref)
        words = f"{ref.rows} rows, {ref.rejects} rejected, {ref.path}"
        return Completed(data=ref, name="Cached" if ref.cached else "Completed", message=words)

    return task(
        name=function.__name__,
        task_run_name=partial(run_name, function.__name__),
        retries=2,
        retry_delay_seconds=exponential_backoff(backoff_factor=5),
        retry_jitter_factor=0.5,
        retry_condition_fn=may_pass,
        persist_result=False,
    )(timed)
