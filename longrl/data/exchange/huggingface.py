"""A Hugging Face dataset: Parquet files by split, which `datasets.load_dataset(folder)` reads.

    data/sft-00000-of-00001.parquet …   the columns of DATASET, `video` (the file's path), `position`, `images` (paths)

The format holds every column, so nothing goes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from longrl.data.exchange.records import (
    SPLITS,
    ExchangeError,
    Format,
    Found,
    Row,
    RowError,
    check,
    files_of,
    told_by_name,
)
from longrl.warehouse import schemas

NEEDED = ("kind", "question", "options", "answer", "reasoning")


def write(rows: Iterable[Row], folder: Path) -> list[Path]:
    """One Parquet file a split; splits without rows have none."""
    rows = list(rows)
    columns = schemas.empty("curate").schema | {"video": pl.String, "position": pl.Int64}
    if any("images" in row for row in rows):
        columns |= {"images": pl.List(pl.String)}
    frame = pl.DataFrame(rows, schema=pl.Schema(columns))
    (folder / "data").mkdir(exist_ok=True)
    files = []
    for split in SPLITS:
        part = frame.filter(pl.col("split") == split)
        if part.height:
            files.append(folder / "data" / f"{split}-00000-of-00001.parquet")
            part.write_parquet(files[-1])
    return files


def read(path: Path) -> Found:
    """The rows of a Parquet file, or of all those of a folder."""
    for file in files_of(path, (".parquet",)):
        try:
            frame = pl.read_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise ExchangeError(f"{file} is no Parquet file: {error}") from None
        if missing := [name for name in NEEDED if name not in frame.columns]:
            raise ExchangeError(f"{file} has no column {', '.join(missing)}; is this the right FORMAT?")
        for number, row in enumerate(frame.iter_rows(named=True)):
            where = f"{file.name} row {number}"
            try:
                yield where, told_by_name(file) | check(row, ours="question_id" in row)
            except RowError as error:
                yield where, str(error)


FORMAT = Format(write, read)
