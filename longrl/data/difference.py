"""What changed between two versions of the dataset: rows added, removed, and changed, and in which columns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from longrl.errors import LongrlError
from longrl.warehouse.artifacts import MANIFEST, ArtifactRef, Warehouse

KEY = "question_id"


class VersionError(LongrlError):
    """There is no such version of the dataset; the message names those there are."""


@dataclass(frozen=True)
class Difference:
    """Two versions by `question_id`. `changed` has the columns question_id, video_id and `columns` (their names)."""

    old: ArtifactRef
    new: ArtifactRef
    added: pl.DataFrame
    removed: pl.DataFrame
    changed: pl.DataFrame
    same: int

    def columns(self) -> dict[str, int]:
        """Changed rows by column, most first."""
        counts = self.changed.select(pl.col("columns").explode()).to_series().drop_nulls().value_counts()
        return dict(counts.sort(["count", "columns"], descending=[True, False]).iter_rows())

    def summary(self) -> str:
        """A few lines for people."""
        columns = ", ".join(f"{name} {count}" for name, count in self.columns().items())
        lines = [
            f"{self.old.key} ({self.old.rows} rows) -> {self.new.key} ({self.new.rows} rows)",
            f"  added   {self.added.height:>8}  {by_split(self.added)}",
            f"  removed {self.removed.height:>8}  {by_split(self.removed)}",
            f"  changed {self.changed.height:>8}  {columns}",
            f"  same    {self.same:>8}",
        ]
        return "\n".join(line.rstrip() for line in lines)

    def listing(self, which: str, limit: int) -> list[str]:
        """One line a row of `added`, `removed` or `changed`; the last one says how many are left out."""
        frame: pl.DataFrame = getattr(self, which)
        detail = "columns" if which == "changed" else "question"
        lines = []
        for row in frame.head(limit).iter_rows(named=True):
            words = ", ".join(row[detail]) if which == "changed" else row[detail]
            lines.append(f"{row[KEY]}  video {row['video_id'][:12]}  {words}")
        return lines + ([f"... and {frame.height - limit} more"] if frame.height > limit else [])

    def document(self) -> dict[str, Any]:
        """Everything as plain JSON values, question ids in full."""
        return {
            "old": {"key": self.old.key, "rows": self.old.rows},
            "new": {"key": self.new.key, "rows": self.new.rows},
            "counts": {
                "added": self.added.height,
                "removed": self.removed.height,
                "changed": self.changed.height,
                "same": self.same,
            },
            "columns": self.columns(),
            "added": self.added[KEY].to_list(),
            "removed": self.removed[KEY].to_list(),
            "changed": dict(self.changed.select(KEY, "columns").iter_rows()),
        }


def difference(old: ArtifactRef, new: ArtifactRef) -> Difference:
    """Compare two artifacts of stage `curate`, row by row and column by column; the order of rows does not count."""
    before, after = old.table(), new.table()
    names = [name for name in after.columns if name != KEY]
    both = before.join(after, on=KEY, suffix=" new", maintain_order="right")
    differs = [
        pl.when(pl.col(name).ne_missing(pl.col(f"{name} new"))).then(pl.lit(name)).alias(f"{name} differs")
        for name in names
    ]
    listed = both.select(KEY, "video_id", pl.concat_list(differs).list.drop_nulls().alias("columns"))
    changed = listed.filter(pl.col("columns").list.len() > 0)
    added = after.join(before, on=KEY, how="anti", maintain_order="left")
    removed = before.join(after, on=KEY, how="anti", maintain_order="left")
    return Difference(old, new, added, removed, changed, both.height - changed.height)


def version_of(warehouse: Warehouse, name: str) -> ArtifactRef:
    """The dataset called `latest`, `latest~N` (N versions before it), by the beginning of its key, or by its folder.

    Raises `VersionError` naming the versions there are.
    """
    if "/" in name or Path(name).is_dir():
        return at_folder(Path(name))
    manifests = sorted((warehouse.root / "curate").glob(f"[!.]*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    keys = [path.parent.name for path in manifests][::-1]
    word, _, back = name.partition("~")
    if word == "latest" and (not back or back.isdigit()):
        found = keys[int(back or 0) :][:1]
    else:
        found = [key for key in keys if key.startswith(name)]
    if len(found) != 1:
        known = ", ".join(keys) or "none; run `make dataset` first"
        raise VersionError(f"{len(found)} datasets are called {name!r} in {warehouse.root}; newest first: {known}")
    ref = warehouse.find("curate", found[0])
    assert ref is not None, "its manifest was there a moment ago"
    return ref


def at_folder(folder: Path) -> ArtifactRef:
    """The artifact in a folder, in whichever warehouse."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise VersionError(
            f"{folder} holds no {MANIFEST}; name an artifact's folder, such as warehouse/curate/<key>"
        ) from None
    if manifest["stage"] != "curate":
        raise VersionError(f"{folder} is an artifact of {manifest['stage']}, not a dataset; name one of curate")
    names = ("stage", "key", "digest", "rows", "rejects")
    return ArtifactRef(path=str(folder.absolute()), cached=True, **{name: manifest[name] for name in names})


def by_split(frame: pl.DataFrame) -> str:
    return ", ".join(f"{split} {count}" for split, count in frame["split"].value_counts().sort("split").iter_rows())
