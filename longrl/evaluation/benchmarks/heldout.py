"""The project's own held-out questions: the split `eval` of a warehouse's newest dataset.

    DATA=warehouse    rows of the stage `curate`, videos of the stage `ingest` that it was made from

The same questions that the stage `evaluate` asks base, SFT and RL, for everybody else: another checkpoint, or a closed
model behind an endpoint. Open questions are asked too; without a judge their words and quantities are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from longrl.evaluation.benchmarks.base import Benchmark, BenchmarkError, Item
from longrl.warehouse.artifacts import Warehouse
from longrl.warehouse.lineage import lineage

STAGES = ("ingest", "segment", "caption", "reason", "verify", "curate")


def read(folder: Path) -> list[Item]:
    warehouse = Warehouse(folder) if (folder / "curate").is_dir() else None
    dataset = warehouse.latest("curate") if warehouse else None
    if warehouse is None or dataset is None:
        raise BenchmarkError(f"{folder} is no warehouse with a dataset; run `make dataset WAREHOUSE={folder}` first")
    rows = dataset.table().filter(pl.col("split") == "eval").sort("question_id")
    if rows.is_empty():
        raise BenchmarkError(f"{dataset.path} holds out no question; give more videos to `make dataset`")
    if "media" in rows.columns:
        rows = rows.filter(pl.col("media").is_null())
    if rows.is_empty():
        raise BenchmarkError(f"{dataset.path} holds out questions on images and text only; a pipeline evaluates these")
    videos = lineage(warehouse, STAGES, f"curate/{dataset.key}").get("ingest") or warehouse.latest("ingest")
    paths = dict(videos.table().select("video_id", "path").iter_rows()) if videos else {}
    return [item(number, row, paths) for number, row in enumerate(rows.iter_rows(named=True))]


def item(number: int, row: dict[str, Any], paths: dict[str, str]) -> Item:
    path = Path(paths.get(row["video_id"], row["video_id"]))
    there = path.is_file()
    return Item(
        item_id=row["question_id"],
        row=number,
        video=path.name,
        path=path if there else None,
        question=row["question"],
        options=tuple(row["options"]),
        answer=row["answer"],
        groups={"category": row["category"], "kind": row["kind"]},
        problem=None if there else f"its video {path.name} is not where it was ingested; run `make dataset` again",
        record=row,
    )


BENCHMARK = Benchmark(
    name="heldout",
    title="Held-out questions",
    layout="a warehouse with the stages ingest and curate",
    read=read,
    groups=("category", "kind"),
)
