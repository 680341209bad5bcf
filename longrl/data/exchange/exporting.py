"""Export: a curated dataset as a folder in another project's format, with its dataset card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from longrl.data.exchange import formats
from longrl.data.exchange.card import card, lineage
from longrl.data.exchange.records import ExchangeError, Row
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.sharing import unfinished


def export_dataset(dataset: ArtifactRef, form: str, out: str | Path, warehouse: Warehouse) -> Path:
    """Write the dataset and its README.md into the folder `out`, which must be empty or not there yet.

    Videos are named by their path below the folder they were ingested from; they are not copied. Raises
    `ExchangeError` for an unknown format, a folder that is in use, or a dataset whose videos are not in the warehouse.
    """
    known = formats()
    if form not in known:
        raise ExchangeError(f"unknown format {form!r}; the formats are: {', '.join(known)}")
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExchangeError(f"{out} is there already; name a new folder, or delete this one first")
    names = names_of_videos(dataset, warehouse)
    draft = unfinished(out)
    try:
        draft.mkdir(parents=True)
        files = known[form].write(rows(dataset, names), draft)
        text = card(dataset, form, [file.relative_to(draft) for file in files], warehouse)
        (draft / "README.md").write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise ExchangeError(f"cannot write {out}: {error}; free space or name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def rows(dataset: ArtifactRef, names: dict[str, str]) -> Iterator[Row]:
    """The dataset's rows with `video` and `position`."""
    for position, row in enumerate(dataset.table().iter_rows(named=True)):
        if (media := row.pop("media", None)) is not None:
            yield row | {"video": "", "images": [each["path"] for each in media], "position": position}
            continue
        if row["video_id"] not in names:
            raise ExchangeError(f"question {row['question_id']}: its video {row['video_id']} was not ingested")
        yield row | {"video": names[row["video_id"]], "position": position}


def names_of_videos(dataset: ArtifactRef, warehouse: Warehouse) -> dict[str, str]:
    """Path of each video below the folder it was ingested from, by video id."""
    ingested = next((manifest for manifest in lineage(dataset, warehouse) if manifest["stage"] == "ingest"), None)
    ref = warehouse.find("ingest", ingested["key"]) if ingested else None
    if ref is None:
        raise ExchangeError(f"the videos of {dataset.path} are no longer in the warehouse; run `make dataset` again")
    folder = Path(ref.facts()["folder"])
    paths = ref.table().select("video_id", "path").iter_rows()
    return {video_id: Path(path).relative_to(folder).as_posix() for video_id, path in paths}
