"""Small tables for curation: rows that every rule lets through, and the stage run on them."""

from __future__ import annotations

import polars as pl

from longrl.config import Categories, CurateSettings
from longrl.data.curate import curate
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.schemas import empty

CLIPS_PER_VIDEO = 3


def question(number: int = 0, video: str = "v0", **changes) -> dict:
    """A choice that every rule lets through."""
    return {
        "question_id": f"{video}-q{number}",
        "video_id": video,
        "kind": "choice",
        "category": Categories[number % 4],
        "question": f"Who comes in {number}?",
        "options": ["red box", "blue ball", "green box", "white ball"],
        "answer": "ABCD"[number % 3],
        "reasoning": f"At 0:00-0:10 somebody comes in and then leaves, in {video} the one of turn {number}.",
        "conclusion": "",
        "evidence": [0, 2],
        "teacher": "test",
    } | changes


def open_question(number: int = 0, video: str = "v0", **changes) -> dict:
    """An open question that every rule lets through."""
    fields = {
        "kind": "open",
        "options": [],
        "answer": "a red box",
        "reasoning": f"At 0:00-0:10 of {video} the red box of turn {number} comes in and then leaves.",
    }
    return question(number, video, **(fields | changes))


def corpus(videos: int = 20, each: int = 8) -> list[dict]:
    return [question(number, f"v{video}") for video in range(videos) for number in range(each)]


def store(warehouse: Warehouse, stage: str, rows: list[dict]) -> ArtifactRef:
    frame = pl.DataFrame(rows, schema=empty(stage).schema)
    return warehouse.produce(stage, 1, {}, {"rows": str(rows)}, lambda draft: draft.write(frame))


def captions(warehouse: Warehouse, rows: list[dict]) -> ArtifactRef:
    """Three captioned clips of every video that the questions in `rows` are about."""
    clips = [
        {
            "clip_id": f"{video}-{index}",
            "video_id": video,
            "index": index,
            "start": 10.0 * index,
            "end": 10.0 * index + 10,
            "caption": f"A box is seen {index} times.",
            "facts": "{}",
            "teacher": "test",
        }
        for video in sorted({row["video_id"] for row in rows})
        for index in range(CLIPS_PER_VIDEO)
    ]
    return store(warehouse, "caption", clips)


def run(
    warehouse: Warehouse,
    rows: list[dict],
    seed: int = 0,
    videos: ArtifactRef | None = None,
    verdicts: ArtifactRef | None = None,
    **settings,
) -> ArtifactRef:
    """Curate these questions."""
    told, asked = captions(warehouse, rows), store(warehouse, "reason", rows)
    return curate(CurateSettings(**settings), told, asked, warehouse, seed, videos, verdicts)


def rejected(made: ArtifactRef) -> list[tuple[str, str]]:
    """(question, rule) of every reject."""
    return made.rejected().select("item", "rule").rows()
