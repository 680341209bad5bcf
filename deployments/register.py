"""Register every deployment of prefect.yaml on the server of PREFECT_API_URL: `python -m deployments.register [file]`.

`prefect deploy --all` creates and updates, but removes nothing. Here the file is the truth: a schedule that it no
longer lists is deleted, and so is a deployment with the tag `longrl`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from flows.bootstrap import bootstrap
from longrl.errors import LongrlError

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("prefect.yaml")
POOL = "longrl"
POOLS = {"LONGRL_DATA_POOL": POOL, "LONGRL_GPU_POOL": POOL}  # variables of prefect.yaml, with their defaults
TAG = "longrl"


class RegistrationError(LongrlError):
    """prefect.yaml could not be registered; the message holds Prefect's own words."""


def register(path: Path = FILE) -> list[str]:
    """Make the server hold exactly what the file lists, and return the names of its deployments.

    What all runs on it need (`flows.bootstrap`) is created first. Raises `RegistrationError` when Prefect refuses a
    deployment.
    """
    listed = yaml.safe_load(path.read_text())["deployments"]
    environment = {"LONGRL_ROOT": str(ROOT), "LONGRL_ARGUMENTS": "", **POOLS} | os.environ
    bootstrap()
    asyncio.run(make_pools({environment[name] for name in POOLS}))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RegistrationError(f"prefect deploy --prefect-file {path}:\n{done.stdout}{done.stderr}")
    return asyncio.run(drop_unlisted(listed))


async def make_pools(names: Collection[str]) -> None:
    """Work pools of process workers, those that are there excepted: they may be of another type, or changed by hand."""
    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        for name in sorted(names):
            with suppress(ObjectAlreadyExists):
                await client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


async def drop_unlisted(listed: list[dict[str, Any]]) -> list[str]:
    """Delete schedules and deployments that are on the server but not in the file; return what stays."""
    slugs = {key(item): {schedule.get("slug") for schedule in item.get("schedules") or ()} for item in listed}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    names = []
    async with get_client() as client:
        for deployment in await client.read_deployments(deployment_filter=ours):
            place = (deployment.entrypoint or "", deployment.name)
            if place not in slugs:
                await client.delete_deployment(deployment.id)
                continue
            names.append(deployment.name)
            for schedule in deployment.schedules:
                if schedule.slug not in slugs[place]:
                    await client.delete_deployment_schedule(deployment.id, schedule.id)
    return sorted(names)


def key(item: dict[str, Any]) -> tuple[str, str]:
    """What tells a deployment from others: two flows may each have one of the same name."""
    return item["entrypoint"], item["name"]


if __name__ == "__main__":
    if not get_current_settings().api.url:
        sys.exit("error: PREFECT_API_URL names no server; for instance http://127.0.0.1:4200/api")
    try:
        names = register(*map(Path, sys.argv[1:2]))
    except LongrlError as error:
        sys.exit(f"error: {error}")
    print(f"registered {len(names)} deployments: {', '.join(names)}")
