"""The catalog: built from manifests alone, by one writer, while others read."""

from __future__ import annotations

import subprocess
import sys

import duckdb
import polars as pl
import pytest

from longrl.warehouse import catalog
from longrl.warehouse.artifacts import ArtifactRef, Warehouse


def clips(warehouse: Warehouse, count: int, run: str = "") -> ArtifactRef:
    rows = [
        {"clip_id": f"c{n}", "video_id": "v", "index": n, "start": 10.0 * n, "end": 10.0 * n + 10, "motion": 1.0}
        for n in range(count)
    ]

    def build(draft):
        draft.write(pl.DataFrame(rows))
        draft.reject("v2", "decode", "no video stream")
        draft.facts["clips"] = count

    return warehouse.produce("segment", 1, {"run": run}, {"videos": "abc"}, build)


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def query(warehouse: Warehouse, sql: str) -> list[tuple]:
    with catalog.connect(warehouse) as connection:
        return connection.sql(sql).fetchall()


def test_a_new_warehouse_has_all_tables_empty(warehouse):
    for table in ("artifacts", "rejects", "splits", *catalog.TABLES.values()):
        assert query(warehouse, f"SELECT count(*) FROM {table}") == [(0,)]


def test_tables_hold_the_rows_and_rejects_of_the_artifact(warehouse):
    made = clips(warehouse, 3)
    catalog.rebuild(warehouse)
    assert query(warehouse, "SELECT clip_id FROM clips ORDER BY start DESC LIMIT 1") == [("c2",)]
    assert query(warehouse, "SELECT * FROM rejects") == [("segment", "v2", "decode", "no video stream")]
    assert query(warehouse, "SELECT key, rows, rejects, path FROM artifacts") == [(made.key, 3, 1, made.path)]
    assert query(warehouse, "SELECT facts ->> 'clips' FROM artifacts") == [("3",)]


def test_the_newest_artifact_is_shown_unless_another_is_named(warehouse):
    old, _ = clips(warehouse, 2, "old"), clips(warehouse, 5, "new")
    catalog.rebuild(warehouse)
    assert query(warehouse, "SELECT count(*) FROM clips") == [(5,)]
    catalog.rebuild(warehouse, [old])
    assert query(warehouse, "SELECT count(*) FROM clips") == [(2,)]
    assert query(warehouse, "SELECT count(*) FROM artifacts") == [(2,)]


def test_a_draft_is_not_in_the_catalog(warehouse):
    clips(warehouse, 2)
    (warehouse.root / "segment" / ".draft-1234").mkdir()
    (warehouse.root / "segment" / ".draft-1234" / "manifest.json").write_text("{")
    catalog.rebuild(warehouse)
    assert query(warehouse, "SELECT count(*) FROM artifacts") == [(1,)]


def test_a_deleted_catalog_is_built_again(warehouse):
    clips(warehouse, 2)
    catalog.rebuild(warehouse).unlink()
    assert query(warehouse, "SELECT count(*) FROM clips") == [(2,)]


def test_readers_cannot_write(warehouse):
    with catalog.connect(warehouse) as connection, pytest.raises(duckdb.InvalidInputException, match="read-only"):
        connection.execute("DELETE FROM clips")


def test_a_killed_writer_leaves_nothing_that_matters(warehouse):
    (warehouse.root / f".{catalog.CATALOG}-1").write_text("half a file")
    clips(warehouse, 2)
    catalog.rebuild(warehouse)
    assert query(warehouse, "SELECT count(*) FROM clips") == [(2,)]
    assert [path.name for path in warehouse.root.glob("*catalog*")] == [catalog.CATALOG]


PIPELINE = """
import sys
import duckdb, polars as pl
from longrl.warehouse import catalog
from longrl.warehouse.artifacts import Warehouse

warehouse = Warehouse(sys.argv[1])
for n in range(15):
    row = {"clip_id": "c", "video_id": "v", "index": 0, "start": 0.0, "end": 10.0, "motion": 1.0}
    warehouse.produce("segment", 1, {"run": sys.argv[2], "n": n}, {}, lambda draft: draft.write(pl.DataFrame([row])))
    catalog.rebuild(warehouse)
    with catalog.connect(warehouse) as connection:
        assert connection.sql("SELECT count(*) FROM clips").fetchall() == [(1,)]
        assert connection.sql("SELECT count(*) FROM artifacts").fetchall()[0][0] > n
"""


def test_two_processes_rebuild_and_read_at_once(warehouse):
    """Each makes 15 artifacts, rebuilding and reading after each one, against the other doing the same."""
    both = [
        subprocess.Popen([sys.executable, "-c", PIPELINE, warehouse.root, name], stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    assert query(warehouse, "SELECT count(*) FROM artifacts") == [(30,)]
