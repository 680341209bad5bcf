"""The dataset card: what an exported dataset holds and where it came from, computed from its artifacts alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from longrl import __version__
from longrl.warehouse.artifacts import MANIFEST, ArtifactRef, Warehouse

PACKAGES = ("av", "decord", "duckdb", "polars")
EXTRAS = {
    "huggingface": "Every column of the dataset is a column here; `video` is the file's path, `position` its place.",
    "llava": "What the format has no place for (category, evidence, split, …) is in each row's field `longrl`.",
    "longvideo-reason": "What the format has no place for (evidence, split, …) is in each row's field `longrl`.",
    "video-r1": "What the format has no place for (category, evidence, split, …) is in each row's field `longrl`.",
}


def card(dataset: ArtifactRef, form: str, files: Sequence[Path], warehouse: Warehouse) -> str:
    """README.md of an export: front matter (split files, for Hugging Face), counts, distributions, provenance."""
    table = dataset.table()
    shown = "videos, groups of images and texts" if "media" in table.columns else "videos"
    parts = [
        front_matter(form, files),
        f"# {table.height} questions about {table['video_id'].n_unique()} {shown}\n",
        f"Format `{form}`, written by longrl {__version__} from its artifact `curate/{dataset.key}`. {EXTRAS[form]} "
        "Videos are not part of it: paths are below the folder of videos, ids are the sha256 of a file's bytes.\n",
        f"Read it again with `make train DATASET=<this folder> FORMAT={form} VIDEOS=<folder of videos>`.\n",
        "## Counts\n",
        distribution(table, "split", "category"),
        "Letters of right answers (multiple choice):\n",
        distribution(table.filter(pl.col("kind") == "choice"), "split", "answer"),
        "Kinds and teachers:\n",
        distribution(table, "kind", "teacher"),
        "## Where it came from\n",
        provenance(dataset, warehouse),
    ]
    return "\n".join(part for part in parts if part)


def front_matter(form: str, files: Sequence[Path]) -> str:
    """YAML that tells Hugging Face which file is which split."""
    head: dict[str, Any] = {"task_categories": ["video-text-to-text"], "tags": ["longrl", "video", "reasoning"]}
    if form == "huggingface":
        splits = [{"split": file.stem.split("-")[0], "path": file.as_posix()} for file in files]
        head["configs"] = [{"config_name": "default", "data_files": splits}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def distribution(table: pl.DataFrame, row: str, column: str) -> str:
    """A Markdown table of counts, one line a value of `row`, one column a value of `column`, with totals."""
    if not table.height:
        return "none\n"
    counts = {(a, b): n for a, b, n in table.group_by(row, column).len().iter_rows()}
    names, heads = (sorted(set(table[name])) for name in (row, column))
    lines = [[row, *heads, "all"], ["---", *["---:"] * (len(heads) + 1)]]
    for name in names:
        cells = [counts.get((name, head), 0) for head in heads]
        lines.append([name, *map(str, cells), str(sum(cells))])
    totals = [sum(counts.get((name, head), 0) for name in names) for head in heads]
    lines.append(["all", *map(str, totals), str(sum(totals))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def provenance(dataset: ArtifactRef, warehouse: Warehouse) -> str:
    """Every stage behind the dataset: its key, version, counts and settings."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        f"longrl {__version__}, {versions}.\n",
        "| stage | key | version | rows | rejected |",
        "|---|---|---|---:|---:|",
    ]
    manifests = lineage(dataset, warehouse)[::-1]
    for found in manifests:
        lines.append(
            f"| {found['stage']} | `{found['key']}` | {found['version']} | {found['rows']} | {found['rejects']} |"
        )
    settings = {found["stage"]: {k: v for k, v in found["settings"].items() if k != "rules"} for found in manifests}
    return "\n".join([*lines, "", "```json", json.dumps(settings, indent=1, ensure_ascii=False), "```", ""])


def lineage(dataset: ArtifactRef, warehouse: Warehouse) -> list[dict[str, Any]]:
    """The manifests of the dataset and of all artifacts behind it that are still there, each once, nearest first."""
    found: list[dict[str, Any]] = []
    waiting = [Path(dataset.path)]
    while waiting:
        path = waiting.pop(0) / MANIFEST
        if not path.exists():
            continue
        manifest = json.loads(path.read_text())
        if any(manifest["key"] == other["key"] for other in found):
            continue
        found.append(manifest)
        inputs = (value for value in manifest["inputs"].values() if isinstance(value, dict))
        waiting += [warehouse.root / value["stage"] / value["key"] for value in inputs]
    return found
