"""Killed or cancelled in each stage: reported, nothing left running, nothing finished is done again.

The table in docs/operations.md is made of the same (`make bench NAME=crashes`).
"""

import os
import signal
import time

import pytest

from flows.stages import OPTIONAL
from flows.stages import ORDER as EVERY_STAGE
from tests.flows.killing import PIPELINE, RANKED, cancel, found, kill, made, of_runs, until, wait_for_stage, walk
from tests.flows.serving import SMALL, serve

ORDER = [stage for stage in EVERY_STAGE if stage not in OPTIONAL]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def served(tmp_path):
    with serve(tmp_path, **SMALL) as running:
        yield running


@pytest.mark.parametrize("kind", ["run", "worker"])
def test_what_is_killed_in_each_stage_is_reported_as_crashed(served, kind):
    ends = dict(walk(served, ORDER, lambda run_id: kill(served, run_id, kind)))
    assert {stage: ended.state for stage, ended in ends.items()} == dict.fromkeys(ORDER, "CRASHED")
    assert max(ended.reported for ended in ends.values()) < 30


def test_what_is_cancelled_in_each_stage_ends_within_half_a_minute(served):
    ends = dict(walk(served, ORDER, lambda run_id: cancel(served, run_id)))
    assert {stage: ended.state for stage, ended in ends.items()} == dict.fromkeys(ORDER, "CANCELLED")
    assert max(ended.gone for ended in ends.values()) < 30


def test_one_rank_is_killed_in_each_stage_that_has_ranks_and_the_run_goes_on(served):
    run_id = served.start(PIPELINE)
    ranked = [stage for stage in RANKED if stage in ORDER]
    for stage in ranked:
        wait_for_stage(served, run_id, stage)
        os.kill(found(served, "ranks")[-1], signal.SIGKILL)
    assert served.state(run_id, seconds=540)["type"] == "COMPLETED"
    tasks = served.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    tries = {task["name"].split()[0]: task["run_count"] for task in tasks}
    assert tries == dict.fromkeys(ORDER, 1) | dict.fromkeys(ranked, 2)


def test_the_server_is_killed_in_each_stage_and_the_run_goes_on(served):
    run_id = served.start(PIPELINE)
    for stage in ORDER:
        wait_for_stage(served, run_id, stage)
        (before,) = found(served, "server")
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: found(served, "server") not in ([], [before]), 60, "a new server")
        until(lambda: answers(served), 180, "the new server's answer")
    assert served.state(run_id, seconds=540)["type"] == "COMPLETED"
    assert len(made(served.home.parent / "warehouse")) == len(ORDER)


def answers(served):
    try:
        return served.ask("/flow_runs/count") > 0
    except OSError:
        return False


def test_a_run_that_is_lost_with_its_worker_is_reported_for_want_of_heartbeats(served):
    run_id = served.start(PIPELINE)
    wait_for_stage(served, run_id, "stories")
    until(lambda: served.ask("/events/filter", heartbeats(run_id))["total"], 60, "a heartbeat")
    started = time.monotonic()
    ended = kill(served, run_id, "run", "worker")
    assert ended.state == "CRASHED"
    assert "No sign of life" in served.run(run_id)["state"]["message"]
    assert time.monotonic() - started < 150
    assert of_runs(served) == []


def heartbeats(run_id):
    chosen = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    return {"filter": chosen}
