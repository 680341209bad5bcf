"""Artifacts: what a stage leaves behind, found again by what it was made from.

    warehouse/<stage>/<key>/part-00000.parquet ... rejects.parquet ... manifest.json

The key hashes the stage's name, its version constant, its settings and the *digests* of its inputs. So a stage that
writes the same bytes as last time stops the recomputation downstream. A stage writes into a draft folder, the manifest
comes last, and one rename puts the folder in place: a folder without a manifest does not exist. Two processes that want
the same artifact take turns at its lock, and the second finds it made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import polars as pl
import pyarrow.parquet as pq

from longrl.config import Settings
from longrl.errors import LongrlError
from longrl.limits import LIMITS
from longrl.warehouse import schemas
from longrl.warehouse.ledger import Ledger
from longrl.warehouse.sharing import unfinished

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
CALLS = "calls.parquet"
REJECTS = dict.fromkeys(("item", "rule", "reason"), pl.String)


class WarehouseError(LongrlError):
    """The warehouse cannot be read or written; the message names the path and the remedy."""


@dataclass(frozen=True)
class ArtifactRef:
    """A finished artifact. `digest` is over its files' bytes; `rows` and `rejects` add up to the rows that came in.

    `cached` and `seconds` tell how this call came by it and are no part of its identity.
    """

    stage: str
    key: str
    path: str
    digest: str
    rows: int
    rejects: int = 0
    cached: bool = field(default=False, compare=False)
    seconds: float = field(default=0.0, compare=False)

    def file(self, name: str) -> Path:
        """A file of the artifact; raises `WarehouseError` when it is gone."""
        path = Path(self.path) / name
        if not path.exists():
            raise WarehouseError(f"{path} is missing; delete {self.path} and run again to rebuild it")
        return path

    def table(self) -> pl.DataFrame:
        """All parts as one frame, checked against the stage's schema."""
        return schemas.validate(self.stage, pl.concat([pl.read_parquet(part) for part in self.parts()]), self.path)

    def parts(self) -> list[Path]:
        """The files of the table, in order; raises `WarehouseError` when there is none."""
        parts = sorted(Path(self.path).glob("part-*.parquet"))
        if not parts:
            raise WarehouseError(f"{self.path} has no part-*.parquet; delete the folder and run again to rebuild it")
        return parts

    def batches(self, columns: Sequence[str] | None = None, rows: int = 50_000) -> Iterator[pl.DataFrame]:
        """The table in frames of at most `rows` rows, each checked; `columns` reads only these.

        For tables that are larger than memory. That values are unique is seen within a frame only.
        """
        chosen = {name: schemas.SCHEMAS[self.stage][name] for name in columns or schemas.SCHEMAS[self.stage]}
        for part in self.parts():
            for batch in pq.ParquetFile(part).iter_batches(rows, columns=list(chosen)):
                yield schemas.validate(self.stage, pl.DataFrame(batch), f"{part}", chosen)

    def rejected(self) -> pl.DataFrame:
        """The rows that did not pass, each with its reason."""
        return pl.read_parquet(self.file("rejects.parquet"))

    def facts(self) -> dict[str, Any]:
        """What the stage noted about its work, such as versions or counts."""
        return json.loads(self.file(MANIFEST).read_text())["facts"]


class Draft:
    """An artifact in the making: a folder to write into, a list of rejects, and the stage's item ledger."""

    def __init__(self, stage: str, folder: Path, ledger: Ledger, redo: str = ""):
        self.stage, self.folder, self.ledger, self.redo = stage, folder, ledger, redo
        self.rows = 0
        self.facts: dict[str, Any] = {}
        self._parts = 0
        self._rejects: list[dict[str, str]] = []
        self._reject_frames: list[pl.DataFrame] = []

    def known(self, keys: Mapping[str, str], video_of: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The finished items by name, from the ledger; without those of the video that is to be done again.

        `keys` are the items' keys by name, `video_of` their videos; without it the names are the videos themselves.
        """
        wanted = {name: key for name, key in keys.items() if (video_of or {}).get(name, name) != self.redo}
        found = self.ledger.get_many(wanted.values())
        return {name: found[key] for name, key in wanted.items() if key in found}

    def write(self, frame: pl.DataFrame) -> None:
        """Add one `part-*.parquet`; raises `schemas.SchemaError` when the frame is not what the stage promises."""
        frame = schemas.validate(self.stage, frame, where=f"{self.stage} output")
        frame.write_parquet(self.folder / f"part-{self._parts:05d}.parquet")
        self._parts += 1
        self.rows += frame.height

    def reject(self, item: str, rule: str, reason: str) -> None:
        """Record an input that does not go on: which one, the rule that dropped it, and why in words."""
        self._rejects.append({"item": item, "rule": rule, "reason": reason})

    def reject_many(self, frame: pl.DataFrame) -> None:
        """Record inputs that do not go on, as rows of `item`, `rule` and `reason`."""
        self._reject_frames.append(frame.select(*REJECTS))

    def rejected_by_rule(self) -> dict[str, int]:
        """So far, those of `reject`."""
        return dict(Counter(row["rule"] for row in self._rejects))

    def close(self) -> None:
        frame = pl.concat([pl.DataFrame(self._rejects, schema=REJECTS), *self._reject_frames])
        frame.sort("item", "rule").write_parquet(self.folder / "rejects.parquet")

    @property
    def rejects(self) -> int:
        return len(self._rejects) + sum(frame.height for frame in self._reject_frames)


class Warehouse:
    """A folder of artifacts, shared by any number of runs and processes."""

    def __init__(self, root: str | Path, refresh: frozenset[str] = frozenset(), forget: bool = True, video: str = ""):
        self.root = Path(root).absolute()
        self.refresh = refresh  # stages that are computed anew, whatever is there,
        self.forget = forget  # and from their first item on, or only the items that were rejected,
        self.video = video  # or only the items of this video and the rejected ones
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            probe = unfinished(self.root / ".locks" / "writable")
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise WarehouseError(
                f"cannot write to the warehouse {self.root}: {error.strerror}; "
                "choose another folder with WAREHOUSE=/path or free some space"
            ) from error

    def key(
        self, stage: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, ArtifactRef | str]
    ) -> str:
        """Content key of an artifact: 16 hex digits of sha256 over stage, version, settings and input digests."""
        plain = {name: identity(value) for name, value in settings.items()}
        digests = {name: ref.digest if isinstance(ref, ArtifactRef) else ref for name, ref in inputs.items()}
        text = json.dumps([stage, version, plain, digests], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def find(self, stage: str, key: str) -> ArtifactRef | None:
        """The finished artifact under this key, or None."""
        folder = self.root / stage / key
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError:
            return None
        names = ("stage", "key", "digest", "rows", "rejects", "seconds")
        return ArtifactRef(path=str(folder), cached=True, **{name: manifest[name] for name in names})

    def latest(self, stage: str) -> ArtifactRef | None:
        """The newest finished artifact of a stage, or None."""
        manifests = sorted((self.root / stage).glob(f"[!.]*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
        return self.find(stage, manifests[-1].parent.name) if manifests else None

    def produce(
        self,
        stage: str,
        version: int,
        settings: Mapping[str, Any],
        inputs: Mapping[str, ArtifactRef | str],
        build: Callable[[Draft], None],
    ) -> ArtifactRef:
        """Return the artifact under this stage's key; `build` fills a draft only when nobody has made it yet.

        A draft that was left by a killed process is used again: training checkpoints in it are resumed, its tables are
        written anew from the ledger. Only what is built waits for the limits of `limited`. Raises `WarehouseError` when
        the disk is full or read-only.
        """
        key = self.key(stage, version, settings, inputs)
        with ExitStack() as held:
            held.enter_context(filelock.FileLock(self.root / ".locks" / f"{stage}-{key}.lock"))
            if stage not in self.refresh and (found := self.find(stage, key)):
                return found
            held.enter_context(LIMITS.get().computing())
            started = time.monotonic()
            folder = self.root / stage / f".draft-{key}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                draft = Draft(stage, folder, self.ledger(stage), redo=self.video if stage in self.refresh else "")
                try:
                    build(draft)
                finally:
                    draft.ledger.close()
                draft.close()
                self._commit(draft, key, version, settings, inputs, time.monotonic() - started)
            except OSError as error:
                raise WarehouseError(
                    f"{stage}: cannot write {folder}: {error}; free space or choose WAREHOUSE=/path"
                ) from error
        found = self.find(stage, key)
        assert found is not None, f"{stage}-{key} was committed a moment ago"
        return ArtifactRef(**{**asdict(found), "cached": False})

    def _commit(
        self,
        draft: Draft,
        key: str,
        version: int,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        seconds: float,
    ) -> None:
        manifest = {
            "stage": draft.stage,
            "key": key,
            "version": version,
            "digest": digest_folder(draft.folder),
            "rows": draft.rows,
            "rejects": draft.rejects,
            "seconds": round(seconds, 3),
            "settings": {k: v.model_dump(mode="json") if isinstance(v, Settings) else v for k, v in settings.items()},
            "inputs": {
                k: {"stage": v.stage, "key": v.key, "digest": v.digest} if isinstance(v, ArtifactRef) else v
                for k, v in inputs.items()
            },
            "facts": draft.facts,
        }
        path = draft.folder / MANIFEST
        with path.open("w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        final = self.root / draft.stage / key
        former = unfinished(final)
        if final.exists():
            final.rename(former)
        draft.folder.rename(final)
        shutil.rmtree(former, ignore_errors=True)  # over NFS, files that a reader has open stay for a while

    def ledger(self, stage: str) -> Ledger:
        """The stage's ledger of finished items, shared by all its runs."""
        return Ledger(
            self.root / stage / "ledger.sqlite", forget=self.forget and not self.video and stage in self.refresh
        )

    def cache(self, name: str) -> Path:
        """A folder for derived data that may be deleted at any time, such as decoded frames and video embeddings."""
        folder = self.root / "cache" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def identity(value: Any) -> Any:
    """What of a settings object (or plain value) goes into the key."""
    return value.identity() if isinstance(value, Settings) else value


def digest_folder(folder: Path) -> str:
    """sha256 over the names and bytes of all files below a folder that say what was made.

    Left out are the manifest, `metrics.jsonl` and `calls.parquet` (how it went, with seconds in them) and names that
    start with a dot.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        told = path.name not in (MANIFEST, METRICS, CALLS) and not any(p.startswith(".") for p in name.parts)
        if told and path.is_file():
            with path.open("rb") as file:
                total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
