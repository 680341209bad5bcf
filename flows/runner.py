"""Where tasks run: in this process (Prefect's own way), or on Ray workers. The tasks are the same."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Flow

from longrl.config import PipelineConfig
from longrl.errors import LongrlError

WORKERS = 2  # of a local Ray; stages start processes of their own, so few are needed
OBJECT_STORE = 100 << 20  # bytes; what travels are references to artifacts


@contextmanager
def on_runner(flow: Flow[..., Any], config: PipelineConfig) -> Iterator[Flow[..., Any]]:
    """The flow with the task runner that the configuration asks for.

    Ray is the cluster at RAY_ADDRESS where that is set (it must see the same warehouse and videos), else a local one
    that ends with the flow. Raises `LongrlError` when Ray is not installed.
    """
    if config.runner == "prefect":
        yield flow
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics over the network
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise LongrlError("RUNNER=ray needs Ray: pip install -e '.[ray]'") from error
    if address := os.environ.get("RAY_ADDRESS"):
        yield flow.with_options(task_runner=RayTaskRunner(address=address))
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
        yield flow.with_options(task_runner=RayTaskRunner(init_kwargs=settings))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
