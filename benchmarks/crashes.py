"""How long it takes until a run that is killed or cancelled is reported as ended, and until nothing of it is left.

A real `make ui` with the smallest run of the tiny recipe. `run`, `worker`: SIGKILL of the run's process, or of the
worker that started it, once in each stage; each time a new run goes on from there, and it is an error if anything that
was finished is made again. `cancel`: the same with the button of the UI. `both`: run and worker at once, as when the
machine goes down; what is left are missing heartbeats. `rank`: SIGKILL of one rank in each stage that has some, and
`server`: of the Prefect server in each stage; the run goes on, and the seconds are until it does. `ARGS='--only cancel
both --stages sft rl'` takes some of them.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, Report
from flows.stages import OPTIONAL, ORDER
from tests.flows.killing import PIPELINE, RANKED, cancel, found, kill, until, wait_for_stage, walk
from tests.flows.serving import SMALL, Served, serve

Way = Callable[[Served, Sequence[str]], Iterator[dict[str, Any]]]
STAGES = [stage for stage in ORDER if stage not in OPTIONAL]
CANCEL = 30.0  # seconds


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="crashes")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    chosen = parser.parse_args(options)
    report = Report(settings=dict(SMALL), keep=(chosen.only, chosen.stages) == (list(WAYS), STAGES))
    for way in chosen.only:
        with tempfile.TemporaryDirectory(prefix="crashes-") as folder, serve(Path(folder), **SMALL) as served:
            for row in WAYS[way](served, chosen.stages):
                report.rows.append({"way": way} | row)
                print(report.rows[-1], flush=True)
    if gone := [row["gone"] for row in report.rows if row["way"] == "cancel"]:
        report.bars.append(Bar("cancel_seconds_to_no_process", max(gone), CANCEL, lower_is_better=True))
    return report


def walked(end: Callable[[Served, str], Any]) -> Way:
    """End a run in each stage."""

    def rows(served: Served, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
        for stage, ended in walk(served, stages, lambda run_id: end(served, run_id)):
            yield {"stage": stage, **vars(ended)}

    return rows


def both(served: Served, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Kill run and worker together, once."""
    run_id = served.start(PIPELINE)
    wait_for_stage(served, run_id, "pretrain")
    yield {"stage": "pretrain", **vars(kill(served, run_id, "run", "worker"))}


def rank(served: Served, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Kill one rank in each stage that has some; seconds until there are new ones."""
    run_id = served.start(PIPELINE)
    for stage in (stage for stage in stages if stage in RANKED):
        wait_for_stage(served, run_id, stage)
        before = found(served, "ranks")
        os.kill(before[-1], signal.SIGKILL)
        again = until(lambda before=before: set(found(served, "ranks")) - set(before), 120, "new ranks")
        yield {"stage": stage, "state": "goes on", "again": round(again, 1)}
    completed(served, run_id)


def server(served: Served, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Kill the server in each stage; seconds until the next one answers."""
    run_id = served.start(PIPELINE)
    for stage in stages:
        wait_for_stage(served, run_id, stage)
        started = time.monotonic()
        os.kill(found(served, "server")[0], signal.SIGKILL)
        time.sleep(0.5)
        until(lambda: answers(served), 180, "the new server's answer")
        yield {"stage": stage, "state": "goes on", "again": round(time.monotonic() - started, 1)}
    completed(served, run_id)


def answers(served: Served) -> bool:
    """Whether the server does."""
    try:
        return bool(served.ask("/flow_runs/count"))
    except OSError:
        return False


def completed(served: Served, run_id: str) -> None:
    """Wait for the run's end; raises `RuntimeError` when that is not its completion."""
    if (state := served.state(run_id, seconds=540))["type"] != "COMPLETED":
        raise RuntimeError(f"the run did not go on: {state}")


WAYS: dict[str, Way] = {
    "run": walked(lambda served, run_id: kill(served, run_id, "run")),
    "worker": walked(lambda served, run_id: kill(served, run_id, "worker")),
    "cancel": walked(cancel),
    "both": both,
    "rank": rank,
    "server": server,
}
