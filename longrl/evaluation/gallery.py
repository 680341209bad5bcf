"""The held-out questions of a run as the report's browser shows them, and the pictures of their videos.

Pictures are of the first videos in the order of their content hash, so the choice says nothing about the results. A
video whose frames cannot be read is shown with the reason instead; its questions and answers stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from longrl.evaluation.browser import Film, Question, QuestionSet, answers_of
from longrl.evaluation.summary import MODELS, NAMES, table_of
from longrl.teachers.pictures import jpeg_url
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.sample import FramePlan, fit, plan_frames
from longrl.warehouse.artifacts import ArtifactRef

VIDEOS = 24  # films with pictures in one page
THUMBNAILS = 8  # frames of a film
LONGER_SIDE = 128  # pixels
QUALITY = 74  # of the JPEGs


def held_out(refs: Mapping[str, ArtifactRef], frames: FrameCache, budget: int) -> QuestionSet:
    """All held-out questions with what each model answered at `budget` frames."""
    asked = table_of(refs, "curate").filter((pl.col("split") == "eval") & (pl.col("kind") == "choice"))
    samples = table_of(refs, "evaluate")
    models = [model for model in MODELS if model in set(samples["model"])]
    greedy = samples.filter((pl.col("mode") == "greedy") & (pl.col("frames") == budget))
    drawn = samples.filter(pl.col("mode") == "sampled").group_by("question_id", "model")
    said = answers_of(
        models,
        {(row["question_id"], row["model"]): row for row in greedy.to_dicts()},
        {(i, m): (right, n) for i, m, right, n in drawn.agg(pl.col("correct").sum(), pl.len()).iter_rows()},
    )
    clips = table_of(refs, "caption").select("video_id", "index", "start", "end")
    spans = {(video_id, index): (start, end) for video_id, index, start, end in clips.iter_rows()}
    questions = []
    for row in asked.sort("video_id", "category", "question_id").to_dicts():
        evidence = [(row["video_id"], index) for index in row["evidence"]]
        questions.append(
            Question(
                film=row["video_id"],
                text=row["question"],
                options=row["options"],
                gold=row["answer"],
                groups={"category": row["category"]},
                answers=said(row["question_id"]),
                spans=[spans[clip] for clip in evidence if clip in spans],
                reasoning=f"{row['reasoning']} {row['conclusion']}".strip(),
            )
        )
    shown = {row["video_id"]: row["media"] for row in asked.to_dicts() if row.get("media") is not None}
    films = films_of(refs, sorted(set(asked["video_id"]) - shown.keys()), frames)
    films |= {name: album(name, media, frames, number < VIDEOS) for number, (name, media) in enumerate(shown.items())}
    pair = (max(0, len(models) - 2), max(0, len(models) - 1))
    return QuestionSet("Held-out questions", [(NAMES[model], model) for model in models], films, questions, pair)


def films_of(refs: Mapping[str, ArtifactRef], ids: Sequence[str], frames: FrameCache) -> dict[str, Film]:
    """These videos with their captions, the first VIDEOS of them with pictures."""
    videos = {row["video_id"]: row for row in table_of(refs, "ingest").filter(pl.col("video_id").is_in(ids)).to_dicts()}
    captions: dict[str, list[tuple[float, float, str]]] = {}
    clips = table_of(refs, "caption").filter(pl.col("video_id").is_in(ids)).sort("video_id", "index")
    for video_id, start, end, words in clips.select("video_id", "start", "end", "caption").iter_rows():
        captions.setdefault(video_id, []).append((start, end, words))
    films = {}
    for place, video_id in enumerate(ids):
        row = videos.get(video_id)
        if row is None:
            films[video_id] = Film(video_id[:12], video_id, problem="the video is not among the ingested ones")
            continue
        pictures, problem = thumbnails(row, frames) if place < VIDEOS else ([], None)
        size = (row["width"], row["height"])
        films[video_id] = Film(
            name=Path(row["path"]).name,
            video_id=video_id,
            path=row["path"],
            size=size,
            duration=row["duration"],
            frames=pictures,
            captions=captions.get(video_id, []),
            problem=problem,
        )
    return films


def album(name: str, media: Sequence[Mapping[str, Any]], frames: FrameCache, shown: bool) -> Film:
    """Images in the place of a video, with their pictures where these are `shown`; or nothing, for text alone."""
    pictures, problem = [], "" if media else "text alone: there is nothing to see"
    for number, medium in enumerate(media if shown else ()):
        height, width = fit(medium["width"], medium["height"], LONGER_SIDE)
        try:
            [picture] = frames.get(medium["media_id"], medium["path"], FramePlan((0.0,), height, width))
        except DecodeError as error:
            problem = str(error)
        else:
            pictures.append((float(number), jpeg_url(picture, QUALITY)))
    told = f"{len(media)} image{'s' * (len(media) > 1)}" if media else "no media"
    return Film(told, name, frames=pictures, problem=problem or None)


def thumbnails(film: Mapping[str, Any], frames: FrameCache) -> tuple[list[tuple[float, str]], str | None]:
    """Small frames of a video as (seconds, JPEG data URL), or the reason there are none."""
    height, width = fit(film["width"], film["height"], LONGER_SIDE)
    try:
        plan = plan_frames(film["duration"], THUMBNAILS, height, width)
        pictures = frames.get(film["video_id"], film["path"], plan)
    except (DecodeError, ValueError) as error:
        return [], str(error)
    return [(at, jpeg_url(picture, QUALITY)) for at, picture in zip(plan.times, pictures, strict=True)], None
