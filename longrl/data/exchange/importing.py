"""Import: questions that somebody wrote elsewhere, as an artifact of the stage `curate` that training starts from.

Each row is matched with a video that was ingested: by the video's id where the row has one, else by its path or name.
Rows may show images instead, files beside the dataset, or nothing: text alone.
A row that can't be used is a reject with its place, its reason and the remedy.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from longrl.config import AnyCategory, Categories, ImportSettings
from longrl.data.exchange import formats
from longrl.data.exchange.records import SPLITS, ExchangeError, Found, Row, RowError, files_of
from longrl.video.image import is_image, size_of
from longrl.video.probe import file_digest
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from longrl.warehouse.ledger import item_key

VERSION = 1


def import_dataset(settings: ImportSettings, videos: ArtifactRef, warehouse: Warehouse) -> ArtifactRef:
    """Table DATASET of the rows at `settings.path`, in their exported order where they have one.

    Rejects have the rules `row` (it lacks something), `video` and `image` (no such one), `duplicate`, and
    `two_splits`: a question for training about a video that is held out by others. Raises `ExchangeError` when a file
    can't be read or no row is left.
    """
    path = Path(settings.path).expanduser().absolute()
    if not path.exists():
        raise ExchangeError(f"nothing at {path}; DATASET must name a file or a folder")
    reader = formats()[settings.format]
    base = path if path.is_dir() else path.parent  # images are named from here
    digest = hashlib.sha256()
    for file in files_of(path, (".json", ".jsonl", ".parquet")):
        with file.open("rb") as opened:
            digest.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())

    def build(draft: Draft) -> None:
        rows, rejects = usable(reader.read(path), settings, Finder(videos, base))
        if not rows:
            reasons = "; ".join(f"{where}: {reason}" for where, _, reason in rejects[:3])
            raise ExchangeError(f"no row of {path} can be used as {settings.format}: {reasons or 'it holds none'}")
        for reject in rejects:
            draft.reject(*reject)
        schema = schemas.empty("curate").schema
        if any(row["media"] is not None for row in rows):
            schema |= {"media": schemas.MEDIA}
        frame = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
        draft.write(frame)
        videos_by_split = frame.group_by("split").agg(pl.col("video_id").n_unique()).sort("split")
        draft.facts |= {
            "rejected": dict(sorted(Counter(rule for _, rule, _ in rejects).items())),
            "questions": dict(frame["split"].value_counts().sort("split").iter_rows()),
            "videos": dict(videos_by_split.iter_rows()),
        }

    settings_that_count = {"format": settings.format, "split": settings.split, "category": settings.category}
    inputs: dict[str, ArtifactRef | str] = {"videos": videos, "files": digest.hexdigest()}
    if pictures := images_below(base):
        inputs["images"] = pictures
    return warehouse.produce("curate", VERSION, {"imported": settings_that_count}, inputs, build)


def no_captions(warehouse: Warehouse) -> ArtifactRef:
    """Captions of nothing: what goes with imported questions when no phase of the training learns from captions."""
    return warehouse.produce("caption", VERSION, {"teacher": "none"}, {}, lambda d: d.write(schemas.empty("caption")))


def no_videos(warehouse: Warehouse) -> ArtifactRef:
    """Videos of nothing: what goes with imported questions that show none."""

    def write(draft: Draft) -> None:
        draft.write(schemas.empty("ingest"))
        draft.facts["folder"] = ""

    return warehouse.produce("ingest", VERSION, {"videos": "none"}, {}, write)


def shows_videos(settings: ImportSettings) -> bool:
    """Whether some row of the dataset names a video; True where it can't be read, which the import will tell."""
    try:
        found = formats()[settings.format].read(Path(settings.path).expanduser().absolute())
        return any(isinstance(row, dict) and row.get("video") for _, row in found)
    except (ExchangeError, OSError):
        return True


def images_below(folder: Path) -> str:
    """sha256 over names, sizes and times of a folder's image files; empty where there are none."""
    files = sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())
    facts = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest() if facts else ""


class NoVideo(ExchangeError):
    """A row's video is not among those ingested."""


class NoImage(ExchangeError):
    """A row's image is not there or can't be read."""


Reject = tuple[str, str, str]  # where it stands, rule, reason


def usable(found: Found, settings: ImportSettings, finder: Finder) -> tuple[list[Row], list[Reject]]:
    """The complete rows, in the order they were exported where they say so, and the rejects."""
    taken: dict[str, tuple[str, Row]] = {}
    rejects: list[Reject] = []
    for where, row in found:
        try:
            if isinstance(row, str):
                raise RowError(row)
            row = complete(row, settings, finder)
        except RowError as error:
            rejects.append((where, "row", str(error)))
        except NoVideo as error:
            rejects.append((where, "video", str(error)))
        except NoImage as error:
            rejects.append((where, "image", str(error)))
        else:
            if row["question_id"] in taken:
                rejects.append((where, "duplicate", f"the same question as {taken[row['question_id']][0]}"))
            else:
                taken[row["question_id"]] = where, row
    held_out = {row["video_id"] for _, row in taken.values() if row["split"] == "eval"}
    rows = []
    for where, row in taken.values():
        if row["split"] != "eval" and row["video_id"] in held_out:
            reason = f"in {row['split']}, but other questions about its video are held out; give a video one split"
            rejects.append((where, "two_splits", reason))
        else:
            rows.append(row)
    positions = [row.get("position") for row in rows]
    if all(isinstance(position, int) for position in positions) and len(set(positions)) == len(rows):
        rows.sort(key=lambda row: row["position"])
    return rows, rejects


class Finder:
    """Finds a row's video: by id, else by its path below the folder, else by its name where that is one video's.

    Images are found by their paths below `base`.
    """

    def __init__(self, videos: ArtifactRef, base: Path):
        self.base = base
        self.known: dict[str, dict[str, Any]] = {}  # images, by path
        self.folder = Path(videos.facts()["folder"])
        self.names: dict[str, set[str]] = {}
        self.ids: set[str] = set()
        for video_id, path in videos.table().select("video_id", "path").iter_rows():
            self.ids.add(video_id)
            for name in {Path(path).relative_to(self.folder).as_posix(), Path(path).name, Path(path).stem}:
                self.names.setdefault(name, set()).add(video_id)

    def find(self, row: Row) -> str:
        """The id of a row's video; raises `NoVideo`."""
        if row.get("video_id"):
            if row["video_id"] not in self.ids:
                raise NoVideo(
                    f"video {row['video_id'][:12]}… ({row['video']}) is not in {self.folder}; "
                    "put the very file there, or take the row's video_id out to match by name"
                )
            return row["video_id"]
        path = Path(row["video"])
        for name in (path.as_posix(), path.name, path.stem):
            found = self.names.get(name, set())
            if len(found) == 1:
                return next(iter(found))
            if found:
                raise NoVideo(f"{len(found)} videos in {self.folder} are named {name}; give the path below that folder")
        raise NoVideo(f"no video {row['video']} in {self.folder}; put it there or take the row out")

    def image(self, name: str) -> dict[str, Any]:
        """An image as an entry of `media`; raises `NoImage`."""
        if name not in self.known:
            path = self.base / name
            try:
                height, width = size_of(path)
                digest = file_digest(path)
            except (OSError, ValueError) as error:
                raise NoImage(f"the image {path} can't be read ({error}); paths are from {self.base} on") from error
            sizes = {"width": width, "height": height}
            self.known[name] = {"kind": "image", "media_id": digest, "path": str(path)} | sizes
        return self.known[name]


def shown(row: Row, finder: Finder) -> dict[str, Any]:
    """`video_id` and `media` of a row; raises `NoVideo` or `NoImage`."""
    if row["video"]:
        return {"video_id": finder.find(row), "media": None}
    media = [finder.image(name) for name in row["images"]]
    group = [each["media_id"] for each in media] or [row["question"], *row["options"]]  # texts stand alone
    return {"video_id": item_key("media", *group), "media": media}


def complete(row: Row, settings: ImportSettings, finder: Finder) -> Row:
    """The row with all columns of DATASET; raises `RowError`, `NoVideo` or `NoImage`."""
    category = row.get("category") or settings.category or ("" if row["video"] else "general")
    known = Categories if row["video"] else AnyCategory
    if category not in known:
        raise RowError(f"its category is {category!r}, not one of {', '.join(known)}; set imported.category")
    split = row.get("split") or settings.split
    if split not in SPLITS:
        raise RowError(f"its split is {split!r}, not one of {', '.join(SPLITS)}")
    row = row | {"category": category, "split": split} | shown(row, finder)
    name = row.get("question_id") or item_key(row["video_id"], category, row["question"], row["options"])
    given = {"evidence": row.get("evidence") or [], "teacher": row.get("teacher") or settings.format}
    return row | given | {"question_id": name}
