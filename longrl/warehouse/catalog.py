"""The catalog: one DuckDB file in which a person can query everything the warehouse holds.

    duckdb -readonly warehouse/catalog.duckdb "SELECT rule, count(*) FROM rejects GROUP BY rule"

It is made from the manifests and the Parquet parts alone, so it can be deleted and rebuilt at any time, and no stage
ever reads it. Unlike a database that is updated in place, every rebuild writes a new file and renames it over the old
one: there is one writer at a time (a file lock), and readers never wait, clash or see half a catalog.

Tables: `artifacts` (every finished artifact), and the rows of one artifact of each stage: `videos`, `clips`,
`captions`, `questions` (as written), `verdicts`, `dataset` (as curated), `rated` (with pass rates), `samples`,
`answers` (to a benchmark), `prompts` and `drawn` (of generators); `splits` (question_id, video_id, category, split) and
`rejects` (stage, item, rule, reason). Older artifacts are a query away:
`SELECT * FROM read_parquet('<path from artifacts>/part-*.parquet')`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import filelock
import polars as pl

from longrl.warehouse import schemas
from longrl.warehouse.artifacts import MANIFEST, ArtifactRef, Warehouse, WarehouseError
from longrl.warehouse.sharing import unfinished

CATALOG = "catalog.duckdb"

TABLES = {
    "ingest": "videos",
    "segment": "clips",
    "caption": "captions",
    "reason": "questions",
    "verify": "verdicts",
    "curate": "dataset",
    "difficulty": "rated",
    "evaluate": "samples",
    "benchmark": "answers",
    "prompts": "prompts",
    "compare": "drawn",
}

ARTIFACTS: dict[str, Any] = {
    "stage": pl.String,
    "key": pl.String,
    "version": pl.Int64,
    "digest": pl.String,
    "rows": pl.Int64,
    "rejects": pl.Int64,
    "seconds": pl.Float64,
    "finished": pl.Datetime("us", "UTC"),
    "path": pl.String,
    "settings": pl.String,  # JSON, as are the next two
    "inputs": pl.String,
    "facts": pl.String,
}

REJECTS: dict[str, Any] = {"stage": pl.String, "item": pl.String, "rule": pl.String, "reason": pl.String}


def rebuild(warehouse: Warehouse, current: Iterable[ArtifactRef] = ()) -> Path:
    """Write `catalog.duckdb` anew and return its path.

    The stage tables show the artifacts in `current` (a run's own), and for other stages the newest ones. Safe to call
    from several processes at once: they take turns. Raises `WarehouseError` when the file cannot be written.
    """
    path = warehouse.root / CATALOG
    fresh = unfinished(warehouse.root / CATALOG)
    with filelock.FileLock(warehouse.root / ".locks" / "catalog.lock"):
        for leftover in warehouse.root.glob(f".{CATALOG}?*"):  # of a killed writer; we hold the lock
            leftover.unlink()
        artifacts = list_artifacts(warehouse)
        shown = {row["stage"]: Path(row["path"]) for row in artifacts.iter_rows(named=True)}  # newest last
        shown |= {ref.stage: Path(ref.path) for ref in current}
        try:
            with duckdb.connect(fresh) as connection:
                fill(connection, artifacts, shown)
            fresh.replace(path)
        except (OSError, duckdb.IOException) as error:
            raise WarehouseError(f"cannot write {path}: {error}; free space or choose WAREHOUSE=/path") from error
        finally:
            fresh.unlink(missing_ok=True)
    return path


def connect(warehouse: Warehouse) -> duckdb.DuckDBPyConnection:
    """Open the catalog read-only, building it first when there is none.

    A connection goes on seeing the catalog it opened; connect again (after closing it) to see a later one.
    """
    path = warehouse.root / CATALOG
    return duckdb.connect(path if path.exists() else rebuild(warehouse), read_only=True)


def list_artifacts(warehouse: Warehouse) -> pl.DataFrame:
    """Every finished artifact, oldest first; drafts (folders that begin with a dot) are not there yet."""
    rows: list[dict[str, Any]] = []
    for path in warehouse.root.glob(f"[!.]*/[!.]*/{MANIFEST}"):
        try:
            manifest, finished = json.loads(path.read_text()), path.stat().st_mtime
        except FileNotFoundError:  # deleted by a person between the listing and now
            continue
        texts = {name: json.dumps(manifest[name]) for name in ("settings", "inputs", "facts")}
        row = manifest | texts | {"finished": datetime.fromtimestamp(finished, UTC), "path": str(path.parent)}
        rows.append({name: row[name] for name in ARTIFACTS})
    return pl.DataFrame(rows, schema=ARTIFACTS).sort("finished", "stage", "key")


def fill(connection: duckdb.DuckDBPyConnection, artifacts: pl.DataFrame, shown: dict[str, Path]) -> None:
    """Create all tables; a stage that has not run yet has an empty one, so that queries need not ask first."""
    store(connection, "artifacts", artifacts)
    rejects = [pl.DataFrame(schema=REJECTS)]
    for stage, folder in shown.items():
        if (folder / "rejects.parquet").is_file():
            frame = pl.read_parquet(folder / "rejects.parquet").with_columns(stage=pl.lit(stage))
            rejects.append(frame.select(*REJECTS))
    store(connection, "rejects", pl.concat(rejects))
    for stage, table in TABLES.items():
        parts = sorted(shown[stage].glob("part-*.parquet")) if stage in shown else []
        if parts:
            names = [str(part) for part in parts]
            connection.execute(f"CREATE TABLE {table} AS SELECT * FROM read_parquet(?)", [names])
        else:
            store(connection, table, schemas.empty(stage))
    connection.execute("CREATE VIEW splits AS SELECT question_id, video_id, category, split FROM dataset")


def store(connection: duckdb.DuckDBPyConnection, table: str, frame: pl.DataFrame) -> None:
    connection.register("incoming", frame.to_arrow())
    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM incoming")
    connection.unregister("incoming")
