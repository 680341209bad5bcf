"""Where tasks run: in this process (Prefect's own way), or on Ray workers. The tasks are the same.

The runner is opened inside the flow, by what its configuration says, and is no option of the flow: so the choice in a
form of the Prefect UI counts as much as RUNNER=ray on a command line.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect.task_runners import TaskRunner
from prefect.utilities.callables import get_call_parameters

from longrl.config import PipelineConfig
from longrl.errors import LongrlError

WORKERS = 2  # of a local Ray; stages start processes of their own, so few are needed
OBJECT_STORE = 100 << 20  # bytes; what travels are references to artifacts

Run = Callable[..., Any]


@contextmanager
def runner(config: PipelineConfig) -> Iterator[Run]:
    """`run(task, *arguments)`, which returns the task's result or raises its error, on what the configuration asks for.

    Ray is the cluster at RAY_ADDRESS where that is set (it must see the same warehouse and videos), else a local one
    that ends with this. Raises `LongrlError` when Ray is not installed.
    """
    if config.runner == "prefect":
        yield here
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics over the network
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise LongrlError("RUNNER=ray needs Ray: pip install -e '.[ray]'") from error
    if address := os.environ.get("RAY_ADDRESS"):
        with RayTaskRunner(address=address) as ray:
            yield elsewhere(ray)
        return
    folder = tempfile.mkdtemp(
        prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None
    )  # socket names must be short
    settings = {
        "num_cpus": WORKERS,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
        "logging_level": "ERROR",
        "_temp_dir": folder,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    }
    try:
        with RayTaskRunner(init_kwargs=settings) as ray:
            yield elsewhere(ray)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def here(task: Any, *arguments: Any) -> Any:
    """Run the task in this process."""
    return task(*arguments, return_state=True).result()


def elsewhere(others: TaskRunner[Any]) -> Run:
    """Run tasks on another runner, one after another."""

    def run(task: Any, *arguments: Any) -> Any:
        future = others.submit(task, get_call_parameters(task.fn, arguments, {}))
        future.wait()
        return future.state.result()

    return run
