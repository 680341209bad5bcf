"""A stage's task: what is cached is decided by the warehouse, what is retried by the kind of failure."""

import shutil

import polars as pl
import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from longrl.config import SegmentSettings
from longrl.errors import LongrlError, Transient
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from tasks.stage_task import stage_task


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


def clips() -> pl.DataFrame:
    return pl.DataFrame(
        {"clip_id": ["v-0"], "video_id": ["v"], "index": [0], "start": [0.0], "end": [10.0], "motion": [1.0]}
    )


@stage_task
def segment(warehouse: Warehouse) -> ArtifactRef:
    def build(draft: Draft) -> None:
        draft.write(clips())

    return warehouse.produce("segment", 1, {"settings": SegmentSettings()}, {"videos": "digest"}, build)


def one_state(task, *args):
    states = []

    @flow(validate_parameters=False)
    def one() -> None:
        states.append(task(*args, return_state=True))

    one(return_state=True)
    return states[0]


def test_a_second_run_ends_in_the_state_cached(tmp_path):
    assert one_state(segment, Warehouse(tmp_path)).name == "Completed"
    assert one_state(segment, Warehouse(tmp_path)).name == "Cached"


def test_a_missing_artifact_is_never_a_hit(tmp_path):
    warehouse = Warehouse(tmp_path)
    one_state(segment, warehouse)
    shutil.rmtree(warehouse.latest("segment").path)
    assert one_state(segment, warehouse).name == "Completed"
    assert warehouse.latest("segment").table().height == 1


def test_what_may_pass_is_retried_and_bad_data_is_not(tmp_path):
    calls = {"lost": 0, "bad": 0}

    @stage_task
    def lost(warehouse: Warehouse) -> ArtifactRef:
        calls["lost"] += 1
        if calls["lost"] == 1:
            raise Transient("the server went away")
        return segment.fn(warehouse).data

    @stage_task
    def bad(warehouse: Warehouse) -> ArtifactRef:
        calls["bad"] += 1
        raise LongrlError("row 3 has no answer")

    quick = {"retry_delay_seconds": 0}
    assert one_state(lost.with_options(**quick), Warehouse(tmp_path)).is_completed()
    assert one_state(bad.with_options(**quick), Warehouse(tmp_path)).is_failed()
    assert calls == {"lost": 2, "bad": 1}
