"""The logs of a run: `make logs RUN=…` prints them, goes on while the run does, and names its ranks' own log files.

RUN is the run's id, a part of its name, or nothing for the newest run. What Prefect keeps is what its UI shows: the
stages' logs and, with their level, those of training ranks. Everything else that a rank writes is in its file.
"""

from __future__ import annotations

import logging
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, Log
from prefect.client.schemas.sorting import FlowRunSort

from flows.arguments import fail_in_words
from flows.server import prefect_server
from longrl.errors import LongrlError
from longrl.training.launch import WRITE_TO

PAGE = 200  # log lines asked for at a time, the most that Prefect's server gives
OVERLAP = timedelta(seconds=10)  # batches of lines may arrive in another order than they were written in
EVERY = 2.0  # seconds between looks at a run that goes on


def find(client: SyncPrefectClient, run: str) -> FlowRun:
    """The newest flow run with this id or with this in its name; raises `LongrlError` when there is none."""
    chosen = None
    if run:
        try:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)]))
        except ValueError:
            chosen = FlowRunFilter(name=FlowRunFilterName(like_=run))
    found = client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    if not found:
        raise LongrlError(f"there is no run {run!r} on {client.api_url}; look for its name or id in the UI under Runs")
    return found[0]


def lines(client: SyncPrefectClient, run: FlowRun, follow: bool) -> Iterator[Log]:
    """What was logged, in order, each line once; with `follow` until the run has ended."""
    seen: set[UUID] = set()
    newest: datetime | None = None
    while True:
        ended = not follow or client.read_flow_run(run.id).state.is_final()  # type: ignore[union-attr]
        after = LogFilterTimestamp(after_=newest - OVERLAP) if newest else None
        chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]), timestamp=after)
        offset = 0
        while page := client.read_logs(log_filter=chosen, limit=PAGE, offset=offset):
            offset += len(page)
            for line in page:
                if line.id not in seen:
                    seen.add(line.id)  # type: ignore[arg-type]
                    newest = max(newest or line.timestamp, line.timestamp)
                    yield line
        if ended:
            return
        time.sleep(EVERY)


def files(messages: list[str]) -> list[Path]:
    """Log files of ranks that these messages name; when the artifact was finished, its folder has got another name."""
    folders = dict.fromkeys(text.rpartition(f" {WRITE_TO} ")[2] for text in messages if f" {WRITE_TO} " in text)
    places = [Path(place) for text in folders for place in (text, text.replace("/.draft-", "/"))]
    return [path for place in places for path in sorted(place.glob("rank-*.log"))]


def show(line: Log) -> str:
    """`12:31:07 WARNING  rank 1, longrl.rollout.sampler: …`."""
    return f"{line.timestamp.astimezone():%H:%M:%S} {logging.getLevelName(line.level):<8} {line.message}"


def main() -> None:
    """Print the logs of the run that the command line names."""
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--run", default="", help="the run's id or a part of its name; else the newest run")
    arguments.add_argument("--no-follow", action="store_true", help="print what is there and stop")
    options = arguments.parse_args()
    with fail_in_words(), prefect_server(), get_client(sync_client=True) as client:
        run = find(client, options.run)
        print(f"{run.name} ({run.id}), {run.state_name}", flush=True)
        messages = []
        for line in lines(client, run, follow=not options.no_follow):
            messages.append(line.message)
            print(show(line), flush=True)
        if found := files(messages):
            print("\nwhat the ranks wrote themselves:", *found, sep="\n  ")


if __name__ == "__main__":
    main()
