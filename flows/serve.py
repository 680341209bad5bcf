"""The process of a Prefect server: `python -m flows.serve --port 4200`, the API, its services and the UI.

It is Prefect's own server with two things that this one lacks.

1. Every transaction that may write takes SQLite's lock for writing when it begins. Prefect begins most of them as
   readers; one that writes later, after another has written, fails at once with "database is locked", whatever the
   time-out is. Begun as a writer it waits for its turn.
2. With `--own FOLDER` it serves the commands that share a folder (see `flows.server`): it sees to what runs need, then
   writes its address there, and ends when no command is left, however they ended. Runs that are then still shown as
   busy died with their processes, and are reported as crashed; slots of limits that these held are given back.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy
import uvicorn

from flows.server import HOST, USERS, healthy, write_address

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

LOOK = 0.5  # seconds between looks at who uses the server
LATEST = 60.0
BUSY = ("RUNNING", "PENDING", "CANCELLING")


def begin_as_writer(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """Of SQLAlchemy's event `before_cursor_execute`: the statement that is executed instead."""
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


def serve_commands(home: Path, url: str) -> None:
    """Tell the commands of this folder when the server is ready, and end this process after the last of them."""
    from flows.bootstrap import bootstrap

    users = os.open(home / USERS, os.O_RDWR | os.O_CREAT)
    try:
        while not healthy(url):
            if unused(users):  # the command that started it has ended already
                return
            time.sleep(0.1)
        bootstrap()
        write_address(home, url)
        while not unused(users):
            time.sleep(LOOK)
        wait_until_written()
        asyncio.run(tidy(home / "concurrency_leases"))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def unused(users: int) -> bool:
    """Whether no command holds the lock any more; then none can get it until this process has ended."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until_written() -> None:
    """Return when all that commands have reported of their tasks is in the database, after `LATEST` seconds at most."""
    from prefect.server.utilities.messaging.memory import Topic

    quiet, deadline = 0, time.monotonic() + LATEST
    while quiet < 2 and time.monotonic() < deadline:
        waiting = sum(subscription._queue.qsize() for subscription in Topic.by_name("events")._subscriptions)
        quiet = 0 if waiting else quiet + 1
        time.sleep(LOOK)


async def tidy(leases: Path) -> None:
    """Report as crashed what is shown as busy and has no worker, and give back the slots that killed commands held.

    `leases` is where Prefect keeps one file for each slot that is held.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await report_killed(client, of_workers=False)
        for lease in leases.glob("*-*.json"):
            await client.release_concurrency_slots_with_lease(UUID(lease.stem))


async def report_killed(client: PrefectClient, of_workers: bool) -> None:
    """Report as crashed all runs of workers, or all of commands, that are shown as busy; their processes are gone."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    busy = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(name) for name in BUSY]))
    chosen = FlowRunFilter(state=busy, deployment_id=FlowRunFilterDeploymentId(is_null_=not of_workers))
    again = "Run it again" if of_workers else "Run the same command again"
    words = f"Its process was killed. {again}, it goes on from what is finished."
    for run in await client.read_flow_runs(flow_run_filter=chosen):
        await client.set_flow_run_state(run.id, Crashed(message=words), force=True)


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--own", type=Path, metavar="FOLDER", help="serve the commands that share this folder")
    options = parser.parse_args()
    url = os.environ["PREFECT_API_URL"] = f"http://{HOST}:{options.port}/api"
    from prefect.server.api.server import create_app

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", begin_as_writer, retval=True)
    app = create_app(final=True)
    if options.own:
        threading.Thread(target=serve_commands, args=(options.own, url), daemon=True, name="commands").start()
    uvicorn.run(app, host=HOST, port=options.port, log_level="warning", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    main()
