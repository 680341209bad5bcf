"""What the report's browser shows of the held-out videos: their frames, clips, captions, questions and answers.

Videos are taken in the order of their content hash, so the choice says nothing about the results. A video whose frames
cannot be read is shown with the reason instead of pictures; its questions and answers stay.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import polars as pl

from longrl.evaluation.summary import MODELS, NAMES, table_of
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.sample import fit, plan_frames
from longrl.warehouse.artifacts import ArtifactRef

VIDEOS = 24  # films with pictures in one page
THUMBNAILS = 8  # frames of a film
LONGER_SIDE = 128  # pixels
QUALITY = 74  # of the JPEGs


@dataclass(frozen=True)
class Answer:
    """One model's greedy answer at the headline frame budget, and how many of its samples were right."""

    model: str
    name: str
    letter: str | None
    text: str  # of the chosen option
    correct: bool
    response: str
    finish: str
    error: str | None
    sampled_right: int
    sampled: int


@dataclass(frozen=True)
class Card:
    """A question with its gold answer and what each model said; `change` is what RL did to SFT's answer."""

    question_id: str
    category: str
    question: str
    options: list[tuple[str, str]]
    gold: str
    reasoning: str
    conclusion: str
    answers: list[Answer]
    change: str  # fixed, broke, kept, or "" without both models

    def right(self, model: str) -> str:
        """Whether the model was right: "right", "wrong", or "" when the model was not asked."""
        for answer in self.answers:
            if answer.model == model:
                return "right" if answer.correct else "wrong"
        return ""


@dataclass(frozen=True)
class Film:
    """A held-out video; `frames` are (seconds, JPEG data URI)."""

    video_id: str
    name: str
    duration: float
    frames: list[tuple[float, str]]
    clips: list[dict[str, Any]]
    cards: list[Card]
    error: str | None


def films(refs: Mapping[str, ArtifactRef], frames: FrameCache, budget: int, limit: int = VIDEOS) -> list[Film]:
    """The first `limit` held-out videos by content hash, with all their questions."""
    held_out = table_of(refs, "curate").filter((pl.col("split") == "eval") & (pl.col("kind") == "choice"))
    ids = sorted(set(held_out["video_id"]))[:limit]
    videos = {row["video_id"]: row for row in table_of(refs, "ingest").filter(pl.col("video_id").is_in(ids)).to_dicts()}
    captions = table_of(refs, "caption").filter(pl.col("video_id").is_in(ids)).sort("video_id", "index")
    samples = table_of(refs, "evaluate").filter(pl.col("video_id").is_in(ids))
    said = {
        (row["question_id"], row["model"]): row
        for row in samples.filter((pl.col("mode") == "greedy") & (pl.col("frames") == budget)).to_dicts()
    }
    drawn = {
        (row["question_id"], row["model"]): (row["right"], row["drawn"])
        for row in samples.filter(pl.col("mode") == "sampled")
        .group_by("question_id", "model")
        .agg(right=pl.col("correct").sum(), drawn=pl.len())
        .to_dicts()
    }
    result = []
    for video_id in ids:
        film = videos.get(video_id)
        pictures, error = thumbnails(film, frames)
        questions = held_out.filter(pl.col("video_id") == video_id).sort("category", "question_id").to_dicts()
        result.append(
            Film(
                video_id=video_id,
                name=Path(film["path"]).name if film else video_id[:12],
                duration=film["duration"] if film else 0.0,
                frames=pictures,
                clips=captions.filter(pl.col("video_id") == video_id).to_dicts(),
                cards=[card(question, said, drawn) for question in questions],
                error=error,
            )
        )
    return result


def card(question: dict[str, Any], said: Mapping[Any, dict[str, Any]], drawn: Mapping[Any, tuple[int, int]]) -> Card:
    """One question as the browser shows it."""
    options = list(zip(ascii_uppercase, question["options"], strict=False))
    texts = dict(options)
    answers = []
    for model in MODELS:
        if row := said.get((question["question_id"], model)):
            good, total = drawn.get((question["question_id"], model), (0, 0))
            answers.append(
                Answer(
                    model=model,
                    name=NAMES[model],
                    letter=row["extracted"],
                    text=texts.get(row["extracted"] or "", ""),
                    correct=row["correct"],
                    response=row["response"],
                    finish=row["finish"],
                    error=row["error"],
                    sampled_right=good,
                    sampled=total,
                )
            )
    right = {answer.model: answer.correct for answer in answers}
    change = ""
    if {"sft", "rl"} <= right.keys():
        change = "kept" if right["sft"] == right["rl"] else "fixed" if right["rl"] else "broke"
    return Card(
        question_id=question["question_id"],
        category=question["category"],
        question=question["question"],
        options=options,
        gold=question["answer"],
        reasoning=question["reasoning"],
        conclusion=question["conclusion"],
        answers=answers,
        change=change,
    )


def thumbnails(film: dict[str, Any] | None, frames: FrameCache) -> tuple[list[tuple[float, str]], str | None]:
    """Small frames of a video as (seconds, JPEG data URI), or the reason there are none."""
    if film is None:
        return [], "the video is not among the ingested ones"
    height, width = fit(film["width"], film["height"], LONGER_SIDE)
    try:
        plan = plan_frames(film["duration"], THUMBNAILS, height, width)
        pictures = frames.get(film["video_id"], film["path"], plan)
    except (DecodeError, ValueError) as error:
        return [], str(error)
    return list(zip(plan.times, map(data_uri, pictures), strict=True)), None


def data_uri(picture: Any) -> str:
    """An RGB frame, uint8 (H, W, 3), as a JPEG in a data URI."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
