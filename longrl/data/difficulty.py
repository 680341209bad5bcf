"""Stage `difficulty`: the student answers each question of the RL split several times.

A question that it always or never gets right teaches nothing in GRPO (all rewards of the group are equal), so it leaves
the split; the pass rate of the others is a column. LongVideo-Reason did this with ten samples. The answers come from
the evaluation's engines, with its frame plans, prompts and cached embeddings, and are read by its extractor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from longrl.config import DifficultySettings, FrameSettings
from longrl.evaluation.asks import Ask, Means, answer, known, media_of, plan_for, sample_seed
from longrl.evaluation.extract import score
from longrl.models.adapter import model_folder
from longrl.models.chat import question_text
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse, digest_folder

VERSION = 2


def difficulty(
    settings: DifficultySettings,
    frames: FrameSettings,
    student: ArtifactRef,
    dataset: ArtifactRef,
    videos: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
) -> ArtifactRef:
    """The dataset with `pass_rate` for the choices of the split "rl"; the other rows are as they were.

    `student` is an artifact with `hf/`. Rejects: `too_hard` (pass rate at most `low`), `too_easy` (at least `high`) and
    `unanswered` (its video cannot be read). Open questions, which the extractor cannot judge, keep a pass rate of null.
    An answer is recorded as soon as it is there; raises `TrainingError` when an engine fails.
    """

    def build(draft: Draft) -> None:
        table = dataset.table()
        asked = table.filter((pl.col("split") == "rl") & (pl.col("kind") == "choice")).to_dicts()
        films = {row["video_id"]: row for row in videos.table().to_dicts()}
        folder = model_folder(student, warehouse)
        weights = digest_folder(folder)
        asks = plan_asks(settings, frames, asked, films, weights, seed)
        answers = known(asks, draft)
        open_asks = [ask for ask in asks if ask.readable and ask.key not in answers]
        if open_asks:
            folders = {"student": str(folder)}
            paths = {video: film["path"] for video, film in films.items()}
            cache, heat = frames.embedding_cache_gib, settings.temperature
            means = Means(settings.max_tokens, settings.ranks, cache, seed, heat)
            draft.facts["engines"] = answer(open_asks, folders, paths, means, draft, warehouse)
            answers |= draft.ledger.get_many(ask.key for ask in open_asks)
        rates, failures = pass_rates(asks, {row["question_id"]: row for row in asked}, answers)
        dropped = [row["question_id"] for row in asked if judge(row["question_id"], rates, failures, settings, draft)]
        rate = pl.col("question_id").replace_strict(rates, default=None, return_dtype=pl.Float64)
        kept = table.filter(~pl.col("question_id").is_in(dropped)).with_columns(pass_rate=rate)
        draft.write(kept)
        draft.facts |= {
            "questions": dict(kept["split"].value_counts().sort("split").iter_rows()),
            "asked": len(asked),
            "pass_rate": sum(rates.values()) / len(rates) if rates else None,
            "unrated_open": kept.filter((pl.col("split") == "rl") & (pl.col("kind") == "open")).height,
        }

    parts = {"settings": settings, "frames": frames, "seed": seed}
    return warehouse.produce(
        "difficulty", VERSION, parts, {"student": student, "dataset": dataset, "videos": videos}, build
    )


def plan_asks(
    settings: DifficultySettings,
    frames: FrameSettings,
    questions: list[dict[str, Any]],
    films: Mapping[str, dict[str, Any]],
    weights: str,
    seed: int,
) -> list[Ask]:
    """Every answer that is wanted, each under the key of all it depends on."""
    asks = []
    for question in questions:
        name, video = question["question_id"], question["video_id"]
        media = media_of(question, frames)
        plan, error = plan_for(films.get(video), frames.budget, frames) if media is None else (None, None)
        text = question_text(question["question"], question["options"])
        for sample in range(settings.samples):
            draw = sample_seed(seed, name, sample)
            ask = Ask("student", name, text, "sampled", sample, frames.budget, video, plan, error, draw, media=media)
            asks.append(ask.keyed(weights, settings.max_tokens, settings.temperature))
    return asks


def pass_rates(
    asks: list[Ask], questions: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, str]]:
    """Share of right answers by question, and the reason for each question that has not all its answers."""
    right: dict[str, list[bool]] = {}
    failures: dict[str, str] = {}
    for ask in asks:
        answered = answers.get(ask.key, {})
        if error := ask.failure(answered):
            failures[ask.question_id] = error
            continue
        question = questions[ask.question_id]
        judged = score(answered["text"], question["options"], question["answer"])
        right.setdefault(ask.question_id, []).append(judged.correct)
    return {name: sum(each) / len(each) for name, each in right.items() if name not in failures}, failures


def judge(
    name: str, rates: Mapping[str, float], failures: Mapping[str, str], settings: DifficultySettings, draft: Draft
) -> bool:
    """Whether a question leaves the split; if so it is among the rejects when this returns."""
    if name in failures:
        draft.reject(name, "unanswered", failures[name])
    elif rates[name] <= settings.low:
        draft.reject(name, "too_hard", f"right in {rates[name]:.0%} of {settings.samples} answers")
    elif rates[name] >= settings.high:
        draft.reject(name, "too_easy", f"right in {rates[name]:.0%} of {settings.samples} answers")
    else:
        return False
    return True
