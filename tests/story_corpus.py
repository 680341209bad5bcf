"""A handful of rendered stories with captions and questions written from their truth, as finished artifacts.

Tests of training only: here the truth stands in for the teacher.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import polars as pl

from longrl.config import IngestSettings, ModelSettings
from longrl.data.ingest import ingest
from longrl.video import stories
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from tests.tiny_student import build_student

SPLITS = ("sft", "sft", "rl", "eval")


@dataclass
class Corpus:
    """Artifacts that training starts from."""

    warehouse: Warehouse
    videos: ArtifactRef
    captions: ArtifactRef
    dataset: ArtifactRef
    model: ArtifactRef


def make_corpus(
    root: Path, count: int, splits: Sequence[str] = ("sft", "sft", "rl", "eval"), brief: bool = False, **student: Any
) -> Corpus:
    """`count` stories; story i belongs to `splits[i % len(splits)]`. With `brief`, chains of thought are a
    word long. `student` goes to `build_student`.
    """
    films = root / "films"
    stories.write_corpus(films, first_seed=0, count=count)
    warehouse = Warehouse(root / "warehouse")
    videos = ingest(IngestSettings(workers=1), films, warehouse)
    truth = {f"story-{seed:07d}.mp4": stories.make_story(seed) for seed in range(count)}
    captions, questions = [], []
    for number, row in enumerate(videos.table().sort("path").iter_rows(named=True)):
        story = truth[Path(row["path"]).name]
        captions += caption_rows(row["video_id"], story)
        for question in question_rows(row["video_id"], story, brief):
            questions.append(question | {"split": splits[number % len(splits)], "pass_rate": None})
    texts = [caption["caption"] for caption in captions] + [row["reasoning"] for row in questions]

    def build_model(draft: Draft) -> None:
        build_student(draft.folder / "hf", **student)

    return Corpus(
        warehouse,
        videos,
        table(warehouse, "caption", captions),
        table(warehouse, "curate", questions),
        warehouse.produce(
            "model", 1, {"settings": ModelSettings(), "made": f"{student} {len(texts)}"}, {}, build_model
        ),
    )


def table(warehouse: Warehouse, stage: str, rows: list[dict[str, Any]]) -> ArtifactRef:
    """The rows as a finished artifact of a stage."""
    frame = pl.DataFrame(rows, schema=schemas.empty(stage).schema)
    return warehouse.produce(stage, 1, {"made": "for a test"}, {}, lambda draft: draft.write(frame))


def caption_rows(video_id: str, story: stories.Story) -> list[dict[str, Any]]:
    return [
        {
            "clip_id": f"{video_id}-{index}",
            "video_id": video_id,
            "index": index,
            "start": scene.start,
            "end": scene.end,
            "caption": f"{scene.actor} visits the {scene.corner} {scene.place}.",
            "facts": "{}",
            "teacher": "truth",
        }
        for index, scene in enumerate(story.scenes)
    ]


def question_rows(video_id: str, story: stories.Story, brief: bool = False) -> list[dict[str, Any]]:
    """One question in each category, four options each."""
    draw = random.Random(video_id)
    chain = " ".join(f"clip {n}: {s.actor} visits the {s.corner} {s.place}." for n, s in enumerate(story.scenes, 1))
    actors = [scene.actor for scene in story.scenes]
    scene = draw.choice(story.scenes)
    asked = [
        ("temporal", "Who acts first?", actors[0], actors),
        ("goal", f"Which place does {scene.actor} visit?", scene.place, list(stories.PLACES)),
        ("spatial", f"In which corner does {scene.actor} stop?", scene.corner, list(stories.CORNERS)),
        ("plot", "Who acts in which order?", " ".join(actors), [" ".join(actors[k:] + actors[:k]) for k in range(4)]),
    ]
    rows = []
    for category, question, right, options in asked:
        options = draw.sample(options, 4)
        letter = ascii_uppercase[options.index(right)]
        rows.append(
            {
                "question_id": f"{video_id}-{category}",
                "video_id": video_id,
                "kind": "choice",
                "category": category,
                "question": question,
                "options": options,
                "answer": letter,
                "reasoning": "the" if brief else chain,
                "conclusion": "" if brief else f"so {right} ({letter})",
                "evidence": [0],
                "teacher": "truth",
            }
        )
    return rows
