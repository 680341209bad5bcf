"""Stage `model`: the student before any training, as an ordinary Hugging Face folder.

With `settings.path` an existing folder of a known family is taken over file by file (hard links where the file system
allows, copies elsewhere); without it a tiny model is built, its tokenizer trained on the corpus's own texts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import polars as pl

from longrl.config import ModelSettings
from longrl.models import chat
from longrl.models.families import check_folder
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 3


def student(
    settings: ModelSettings, captions: ArtifactRef, dataset: ArtifactRef, warehouse: Warehouse, seed: int
) -> ArtifactRef:
    """Build or take over the student; the artifact holds `hf/`.

    The tokenizer of the tiny model sees the texts of SFT videos only. Raises `StudentError` when `settings.path` is no
    whole model of a known family.
    """
    if settings.path:
        source = check_folder(Path(settings.path).expanduser())

        def take(draft: Draft) -> None:
            copy_folder(source, draft.folder / "hf")
            draft.rows = 1
            draft.facts["source"] = str(source)

        return warehouse.produce("model", VERSION, {}, {"folder": fingerprint(source)}, take)

    def build(draft: Draft) -> None:
        from longrl.models import tiny  # here: it loads torch

        questions = dataset.table()
        texts = corpus_texts(captions.table(), questions)
        folder = draft.folder / "hf"
        shutil.rmtree(folder, ignore_errors=True)
        tiny.build_tiny(folder, settings, texts, seed)
        draft.facts["texts"] = len(texts)
        draft.rows = 1

    return warehouse.produce(
        "model", VERSION, {"model": settings, "seed": seed}, {"captions": captions, "dataset": dataset}, build
    )


def corpus_texts(captions: pl.DataFrame, questions: pl.DataFrame) -> list[str]:
    """Every text the student may read or write in SFT: captions, questions with options, answers."""
    questions = questions.filter(pl.col("split") == "sft")
    known = captions.filter(pl.col("video_id").is_in(questions["video_id"].unique().to_list()))
    texts = list(known["caption"])
    for row in questions.iter_rows(named=True):
        texts.append(chat.question_text(row["question"], row["options"]))
        texts.append(chat.answer_text(row["reasoning"], row["conclusion"], row["answer"]))
    return texts


def fingerprint(folder: Path) -> str:
    """sha256 over names, sizes and times of a folder's files: quick for many gigabytes.

    A touched file makes the stage run again; unchanged bytes then stop the recomputation downstream.
    """
    files = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    text = json.dumps([str(folder.resolve()), {name: (stat.st_size, stat.st_mtime_ns) for name, stat in files.items()}])
    return hashlib.sha256(text.encode()).hexdigest()


def copy_folder(source: Path, target: Path) -> None:
    """All files of a folder, hidden ones left out, as hard links where the file system allows."""
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target / name)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, target / name)
