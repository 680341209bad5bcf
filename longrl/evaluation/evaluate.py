"""The evaluation stage: what base, SFT and RL answer on held-out videos, one row per response.

1. Every held-out multiple-choice question is asked, and every one counts: a video that cannot be read gives rows that
   are wrong and say why. (Elsewhere failed videos leave the denominator.)
2. All models see the same frame plans, prompts and seeds. Greedy at every frame budget; sampled at the headline budget;
   and, for the last model, greedy with *another* video's embeddings: a model that answers from the video falls to
   chance there, one that answers from the wording does not.
3. A killed run goes on where it was, and a model that was evaluated before is not asked again (`asks`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from longrl.config import EvaluateSettings, FrameSettings
from longrl.evaluation.asks import Ask, Means, answer, known, media_of, plan_for, sample_seed
from longrl.evaluation.extract import score
from longrl.models.adapter import model_folder
from longrl.models.chat import question_text
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse, digest_folder

VERSION = 2


def evaluate(
    settings: EvaluateSettings,
    frames: FrameSettings,
    models: Mapping[str, ArtifactRef],
    dataset: ArtifactRef,
    videos: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
) -> ArtifactRef:
    """Answer the held-out questions with each of `models` (name -> artifact with `hf/`, in the order of training).

    Returns a SAMPLES table with a row for every (model, question, mode, frame budget, sample), answered or not. Raises
    `TrainingError` when an engine fails; what it had answered by then is kept.
    """

    def build(draft: Draft) -> None:
        split = dataset.table().filter(pl.col("split") == "eval")
        questions = split.filter(pl.col("kind") == "choice").sort("question_id").to_dicts()
        folders = {name: str(model_folder(ref, warehouse)) for name, ref in models.items()}
        weights = {name: digest_folder(Path(folder)) for name, folder in folders.items()}
        films = {row["video_id"]: row for row in videos.table().to_dicts()}
        asks = plan_asks(settings, frames, questions, films, weights, seed)
        answers = known(asks, draft)
        open_asks = [ask for ask in asks if ask.readable and ask.key not in answers]
        draft.facts |= {"questions": len(questions), "responses": len(asks), "reused": len(asks) - len(open_asks)}
        draft.facts["open_questions_left_out"] = split.height - len(questions)  # here letters are scored
        if open_asks:
            paths = {video: film["path"] for video, film in films.items()}
            means = Means(settings.max_tokens, settings.ranks, frames.embedding_cache_gib, seed)
            draft.facts["engines"] = answer(open_asks, folders, paths, means, draft, warehouse)
            answers |= draft.ledger.get_many(ask.key for ask in open_asks)
        asked = {question["question_id"]: question for question in questions}
        rows = [row(ask, asked[ask.question_id], answers.get(ask.key, {})) for ask in asks]
        draft.facts["errors"] = sum(item["error"] is not None for item in rows)
        draft.write(pl.DataFrame(rows, schema=schemas.empty("evaluate").schema))

    parts = {"settings": settings, "frames": frames, "seed": seed}
    return warehouse.produce("evaluate", VERSION, parts, {**models, "dataset": dataset, "videos": videos}, build)


def plan_asks(
    settings: EvaluateSettings,
    frames: FrameSettings,
    questions: list[dict[str, Any]],
    films: Mapping[str, dict[str, Any]],
    weights: Mapping[str, str],
    seed: int,
) -> list[Ask]:
    """Everything to be asked, in the order of the table. `weights` maps each model to the digest of its weights."""
    shown = {question["video_id"]: question for question in questions}
    others = derangement(sorted(shown), seed)
    last = list(weights)[-1] if weights else ""
    asks = []
    for model in weights:
        runs = [("greedy", 0, budget) for budget in sorted({*frames.budgets, frames.budget})]
        if model != "base":
            runs += [("sampled", index, frames.budget) for index in range(settings.samples)]
        if model == last and settings.shuffled_video_control and others:
            runs.append(("shuffled_video", 0, frames.budget))
        for mode, index, budget in runs:
            for question in questions:
                seen = others[question["video_id"]] if mode == "shuffled_video" else question["video_id"]
                media = media_of(shown[seen], frames)
                if media == () and mode == "shuffled_video":
                    continue  # there is nothing to exchange
                plan, error = plan_for(films.get(seen), budget, frames) if media is None else (None, None)
                name = question["question_id"]
                text = question_text(question["question"], question["options"])
                draw = sample_seed(seed, name, index) if mode == "sampled" else None
                ask = Ask(model, name, text, mode, index, budget, seen, plan, error, draw, media=media)
                asks.append(ask.keyed(weights[model], settings.max_tokens))
    return asks


def derangement(names: list[str], seed: int) -> dict[str, str]:
    """Another name for each name, none its own; empty when there are fewer than two.

    >>> sorted(derangement(["a", "b"], seed=0).items())
    [('a', 'b'), ('b', 'a')]
    """
    if len(names) < 2:
        return {}
    ring = list(names)
    random.Random(seed).shuffle(ring)
    return dict(zip(ring, ring[1:] + ring[:1], strict=True))


def row(ask: Ask, question: Mapping[str, Any], answered: Mapping[str, Any]) -> dict[str, Any]:
    """One row of SAMPLES; without a response it is an error, and wrong."""
    error = ask.failure(answered)
    response = "" if error else answered["text"]
    judged = score(response, question["options"], question["answer"])
    return {
        "model": ask.model,
        "question_id": ask.question_id,
        "video_id": question["video_id"],
        "category": question["category"],
        "mode": ask.mode,
        "sample": ask.sample,
        "frames": ask.frames,
        "plan": ask.digest,
        "response": response,
        "extracted": judged.extracted,
        "gold": question["answer"],
        "correct": judged.correct,
        "well_formed": judged.well_formed,
        "tokens": 0 if error else answered["tokens"],
        "finish": "error" if error else answered["finish"],
        "error": error,
    }
