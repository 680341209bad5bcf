"""The limits `gpu` and `teacher` of a Prefect server: strict, and waited for by what computes or asks only."""

import asyncio
import threading
import time

import polars as pl
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.concurrency.sync import concurrency
from prefect.testing.utilities import prefect_test_harness

from flows.bootstrap import automations, bootstrap
from flows.stages import Stages
from longrl.config import SegmentSettings, load_config
from longrl.limits import limited
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.limits import GPU, TEACHER, LimitMissing, Turns, gpu
from tasks.stage_task import gpu_stage_task
from tests.videos import noisy_frames, write_video


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def limits():
    bootstrap()
    yield
    with get_client(sync_client=True) as client:
        for name in (GPU, TEACHER):
            client.delete_global_concurrency_limit_by_name(name)


def change(name, **values):
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(**values))


def read(name):
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name)


def test_a_server_without_the_limits_is_an_error_that_names_the_remedy():
    with pytest.raises(
        LimitMissing, match=r"no concurrency limit 'gpu'; create it with `python -m deployments.register"
    ):
        gpu().__enter__()
    with pytest.raises(LimitMissing, match="no concurrency limit 'teacher'"):
        asyncio.run(Turns().take())


def test_a_bootstrap_creates_what_is_missing_and_leaves_what_a_person_changed(limits):
    change(GPU, limit=3)
    bootstrap()
    assert (read(GPU).limit, read(TEACHER).slot_decay_per_second) == (3, 50.0)
    with get_client(sync_client=True) as client:
        there = [automation.name for automation in client.read_automations()]
    assert sorted(there) == sorted(automation.name for automation in automations())


@gpu_stage_task
def segment(warehouse: Warehouse, built: list[float]) -> ArtifactRef:
    def build(draft):
        built.append(time.monotonic())
        row = {"clip_id": "v-0", "video_id": "v", "index": 0, "start": 0.0, "end": 10.0, "motion": 1.0}
        draft.write(pl.DataFrame([row]))

    return warehouse.produce("segment", 1, {"settings": SegmentSettings()}, {"videos": "digest"}, build)


@flow(validate_parameters=False)
def one(warehouse, built):
    return segment(warehouse, built)


def test_a_gpu_stage_waits_for_a_slot_and_gives_it_back(limits, tmp_path):
    built, warehouse = [], Warehouse(tmp_path)
    running = threading.Thread(target=one, args=(warehouse, built))
    with concurrency(GPU, strict=True):
        running.start()
        running.join(6.0)
        assert running.is_alive()
        assert not built
        released = time.monotonic()
    running.join(60.0)
    assert built[0] >= released
    assert read(GPU).active_slots == 0


def test_what_is_there_waits_for_no_slot(limits, tmp_path):
    built, warehouse = [], Warehouse(tmp_path)
    one(warehouse, built)
    with concurrency(GPU, strict=True):
        one(warehouse, built)
    assert len(built) == 1


def test_all_runs_together_keep_to_the_teachers_rate(limits):
    change(TEACHER, limit=10, slot_decay_per_second=5.0)

    async def ask(times):
        turns = Turns()
        for _ in range(times):
            await turns.take()

    async def two_runs():
        await asyncio.gather(ask(12), ask(12))

    started = time.monotonic()
    asyncio.run(two_runs())
    assert time.monotonic() - started > 2.0  # 10 at once, 14 more at 5 a second: 2.8 s


def test_a_limit_without_decay_is_no_rate(limits):
    change(TEACHER, slot_decay_per_second=0.0)
    with pytest.raises(LimitMissing, match="no slot decay"):
        asyncio.run(Turns().take())


@flow(validate_parameters=False)
def up_to_captions(config):
    with Stages(config) as stages:
        return stages.until("caption").rows


def test_more_clips_make_no_more_task_runs(tmp_path):
    write_video(tmp_path / "films" / "film.mp4", noisy_frames(48, seed=1), fps=4.0)
    task_runs = {}
    for seconds in ("6", "1"):
        settings = {"videos": str(tmp_path / "films"), "warehouse": str(tmp_path / "warehouse")}
        settings |= {"segment.clip_seconds": seconds, "segment.minimum_tail": "0.5"}
        state = up_to_captions(load_config("tiny", settings), return_state=True)
        with get_client(sync_client=True) as client:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
            task_runs[state.result()] = len(client.read_task_runs(flow_run_filter=chosen))
    assert task_runs == {2: 3, 12: 3}


def test_only_what_is_built_enters_the_limit(tmp_path):
    entered = []

    class Counting:
        def __enter__(self):
            entered.append("in")

        def __exit__(self, *_):
            entered.append("out")

    with limited(computing=Counting):
        for _ in range(2):
            segment.fn.__wrapped__(Warehouse(tmp_path), [])
    assert entered == ["in", "out"]
