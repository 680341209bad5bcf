"""Artifacts: content keys, early cut-off, atomic commit; killed processes and full disks."""

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from longrl.config import IngestSettings, SegmentSettings
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse, WarehouseError
from longrl.warehouse.ledger import Ledger, item_key
from longrl.warehouse.schemas import SchemaError


def clips(count: int = 2) -> pl.DataFrame:
    rows = [
        {"clip_id": f"v-{i}", "video_id": "v", "index": i, "start": 10.0 * i, "end": 10.0 * i + 10, "motion": 1.0}
        for i in range(count)
    ]
    return pl.DataFrame(rows)


def segment(warehouse: Warehouse, count: int = 2, seconds: float = 10.0, videos: str = "digest") -> ArtifactRef:
    def build(draft: Draft) -> None:
        draft.write(clips(count))
        draft.reject("v-9", "too_short", "0.1 s")

    return warehouse.produce(
        "segment", 1, {"settings": SegmentSettings(clip_seconds=seconds)}, {"videos": videos}, build
    )


def test_an_artifact_is_made_once(tmp_path):
    first, second = segment(Warehouse(tmp_path)), segment(Warehouse(tmp_path))
    assert (first.cached, second.cached) == (False, True)
    assert first == second
    assert second.table().equals(clips())
    assert second.rejected().rows() == [("v-9", "too_short", "0.1 s")]


@pytest.mark.parametrize("change", [{"seconds": 5.0}, {"videos": "other"}])
def test_another_setting_or_input_is_another_artifact(tmp_path, change):
    warehouse = Warehouse(tmp_path)
    assert segment(warehouse).key != segment(warehouse, **change).key


def test_how_much_effort_goes_in_does_not_change_the_key(tmp_path):
    keys = {Warehouse(tmp_path).key("ingest", 1, {"settings": IngestSettings(workers=n)}, {}) for n in (1, 2)}
    assert len(keys) == 1


def test_the_same_bytes_from_another_setting_stop_the_recomputation_downstream(tmp_path):
    warehouse = Warehouse(tmp_path)
    one, other = segment(warehouse, seconds=10.0), segment(warehouse, seconds=5.0)
    assert one.digest == other.digest
    settings = {"settings": SegmentSettings()}
    assert warehouse.key("caption", 1, settings, {"clips": one}) == warehouse.key(
        "caption", 1, settings, {"clips": other}
    )


def test_refresh_computes_anew_and_replaces(tmp_path):
    segment(Warehouse(tmp_path), count=2)
    again = segment(Warehouse(tmp_path, refresh=frozenset({"segment"})), count=3)
    assert (again.cached, again.rows) == (False, 3)
    assert Warehouse(tmp_path).latest("segment").rows == 3


def test_a_folder_without_a_manifest_does_not_exist(tmp_path):
    ref = segment(Warehouse(tmp_path))
    (Path(ref.path) / "manifest.json").unlink()
    assert not segment(Warehouse(tmp_path)).cached


def test_a_wrong_table_is_refused_with_column_check_and_value(tmp_path):
    def build(draft: Draft) -> None:
        draft.write(clips().with_columns(pl.lit(-1.0).alias("start")))

    with pytest.raises(SchemaError, match=r"'start' fails greater_than_or_equal_to\(0\).*-1\.0"):
        Warehouse(tmp_path).produce("segment", 1, {}, {}, build)
    assert Warehouse(tmp_path).latest("segment") is None


def test_a_table_that_was_tampered_with_is_refused_on_reading(tmp_path):
    ref = segment(Warehouse(tmp_path))
    clips().drop("end").write_parquet(Path(ref.path) / "part-00000.parquet")
    with pytest.raises(SchemaError, match="end"):
        ref.table()


KILLED = """
import os, signal, sys
from longrl.warehouse.artifacts import Warehouse
from longrl.warehouse.ledger import item_key

def build(draft):
    for item in range(5):
        key = item_key("item", item)
        if key in draft.ledger.get_many([key]):
            continue
        if item == 3 and sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        draft.ledger.put(key, item)
        print(item, flush=True)

Warehouse(sys.argv[1]).produce("count", 1, {}, {}, build)
"""


def test_after_sigkill_the_next_run_redoes_no_finished_item(tmp_path):
    def run(mode):
        return subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), mode], capture_output=True, text=True)

    killed, resumed = run("kill"), run("go on")
    assert killed.returncode == -signal.SIGKILL
    assert (killed.stdout.split(), resumed.stdout.split()) == (["0", "1", "2"], ["3", "4"])
    assert Warehouse(tmp_path).latest("count") is not None


def build_slowly(arguments):
    root, folder = arguments

    def build(draft: Draft) -> None:
        (Path(folder) / f"built-by-{os.getpid()}").touch()
        draft.write(clips())

    return Warehouse(root).produce("segment", 1, {}, {}, build).digest


def test_two_processes_that_want_the_same_artifact_make_it_once(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        digests = set(pool.map(build_slowly, [(tmp_path / "warehouse", marks)] * 4))
    assert len(digests) == 1
    assert len(list(marks.iterdir())) == 1


def test_an_unwritable_warehouse_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WarehouseError, match=r"cannot write to the warehouse .*file.*WAREHOUSE="):
        Warehouse(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_a_clear_error_and_leaves_no_artifact(tmp_path):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:

        def build(draft: Draft) -> None:
            (draft.folder / "big.bin").write_bytes(os.urandom(4 << 20))

        with pytest.raises(WarehouseError, match=r"No space left.*free space or choose WAREHOUSE="):
            Warehouse(tmp_path).produce("big", 1, {}, {}, build)
        assert Warehouse(tmp_path).latest("big") is None
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_ledger_keeps_what_was_put(tmp_path):
    with_items = Ledger(tmp_path / "ledger.sqlite")
    with_items.put(item_key("a", 1), {"caption": "x"})
    with_items.close()
    assert Ledger(tmp_path / "ledger.sqlite").get_many([item_key("a", 1), item_key("a", 2)]) == {
        item_key("a", 1): {"caption": "x"}
    }
