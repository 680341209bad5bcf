"""The whole DAG as a user runs it: fresh, again, changed, killed, twice at once, on bad folders."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from flows.stages import OPTIONAL
from flows.stages import ORDER as EVERY_STAGE
from tests.flows.small import SMALL_RUN

ORDER = [stage for stage in EVERY_STAGE if stage not in OPTIONAL]

ROOT = Path(__file__).parents[2]
SMALL = SMALL_RUN | {"evaluate.samples": "2"}


def start(warehouse: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """`python -m flows pipeline` as make starts it, in its own session, with a Prefect home of its own."""
    sets = [f"--set={name}={value}" for name, value in (SMALL | settings).items()]
    command = [sys.executable, "-m", "flows", "pipeline", "--warehouse", str(warehouse), *sets, *arguments]
    environment = os.environ | {
        "PREFECT_HOME": str(warehouse.parent / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run(warehouse: Path, *arguments: str, status: int = 0, **settings: str) -> str:
    """Run to the end and return what it printed."""
    process = start(warehouse, *arguments, **settings)
    output, _ = process.communicate(timeout=540)
    assert process.returncode == status, output
    return output


def summary(warehouse: Path) -> dict:
    return json.loads((warehouse / "reports" / "latest" / "summary.json").read_text())


def cached(warehouse: Path) -> dict[str, bool]:
    return {stage["name"]: stage["cached"] for stage in summary(warehouse)["stages"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A warehouse after one complete run."""
    warehouse = tmp_path_factory.mktemp("pipeline") / "warehouse"
    run(warehouse)
    return warehouse


def test_a_run_ends_with_a_summary_that_adds_up(finished):
    result = summary(finished)
    assert result["videos"] == {"ok": 10, "quarantined": 0}
    assert result["clips"] == result["captions"] == 40
    questions = result["questions"]
    assert questions["written"] == questions["accepted"] + sum(questions["rejected"].values())
    assert sum(result["splits"].values()) == questions["accepted"]
    assert set(result["accuracy"]) >= {"chance", "base", "sft", "rl"}
    assert set(result["by_frames"]) == {"4", "8"}
    assert len(result["reward"]) == 2
    assert [stage["name"] for stage in result["stages"]] == ORDER
    assert not any(cached(finished).values())


def test_a_run_ends_with_a_report_and_a_catalog(finished):
    assert (finished / "reports" / "latest" / "index.html").stat().st_size > 10_000
    with duckdb.connect(str(finished / "catalog.duckdb"), read_only=True) as catalog:
        ((videos,),) = catalog.sql("SELECT count(*) FROM videos").fetchall()
    assert videos == 10


def test_no_video_is_in_two_splits(finished):
    with duckdb.connect(str(finished / "catalog.duckdb"), read_only=True) as catalog:
        twice = catalog.sql("SELECT video_id FROM splits GROUP BY video_id HAVING count(DISTINCT split) > 1").fetchall()
    assert twice == []


def test_a_second_run_is_all_cached_and_a_changed_setting_reruns_only_what_depends_on_it(finished):
    run(finished)
    assert all(cached(finished).values())
    run(finished, **{"evaluate.samples": "1"})
    assert [name for name, hit in cached(finished).items() if not hit] == ["evaluate"]
    # 10.0 s clips by another name: the clips' bytes are the same, so nothing after them is computed again
    run(finished, **{"segment.minimum_tail": "1.0"})
    assert [name for name, hit in cached(finished).items() if not hit] == ["segment"]


@pytest.mark.slow
def test_killed_in_each_stage_the_next_run_goes_on_and_finishes(tmp_path):
    warehouse = tmp_path / "warehouse"
    for stage in ORDER:
        process = start(warehouse)
        while not list((warehouse / stage).glob(".draft-*")) and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, f"{stage} ended before it could be killed: {process.stdout.read()}"
        process.kill()
        process.wait()
        time.sleep(1.0)
        before = {name: made(warehouse, name) for name in ORDER[: ORDER.index(stage)]}
        assert all(before.values()), f"stages before {stage} should be finished"
    run(warehouse)
    hits = cached(warehouse)
    assert [name for name in ORDER if not hits[name]] == [ORDER[-1]]
    assert not list(warehouse.glob("*/.draft-*"))


def made(warehouse: Path, stage: str) -> list[Path]:
    return list((warehouse / stage).glob("*/manifest.json"))


@pytest.mark.slow
def test_two_pipelines_at_once_on_one_warehouse_share_the_work(tmp_path):
    warehouse = tmp_path / "warehouse"
    processes = [start(warehouse), start(warehouse)]
    outputs = [process.communicate(timeout=540)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert {stage: len(made(warehouse, stage)) for stage in ORDER} == dict.fromkeys(ORDER, 1)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({}, "no videos", id="empty folder", marks=pytest.mark.slow),
        pytest.param({"notes.txt": b"hello"}, "no videos", id="no videos in it", marks=pytest.mark.slow),
        pytest.param({"empty.mp4": b"", "text.mp4": b"hello"}, "none of the 2 video files", id="only broken videos"),
    ],
)
def test_a_folder_with_nothing_to_do_ends_with_a_clear_error(tmp_path, files, words):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    output = run(tmp_path / "warehouse", "--videos", str(folder), status=1)
    assert "error:" in output
    assert words in output
    assert "Traceback" not in output
