"""The evaluation stage: what base, SFT and RL answer on held-out videos, one row per response.

1. Every held-out multiple-choice question is asked, and every one counts: a video that cannot be read gives rows that
   are wrong and say why. (Elsewhere failed videos leave the denominator.)
2. All models see the same frame plans, prompts and seeds. Greedy at every frame budget; sampled at the headline budget;
   and, for the last model, greedy with *another* video's embeddings: a model that answers from the video falls to
   chance there, one that answers from the wording does not.
3. A response is an item of the ledger, keyed by the weights, the video, its frame plan, the prompt and the sampling. A
   killed run goes on where it was, and a model that was evaluated before is not asked again.

This process plans and scores; `longrl.evaluation.respond` generates, in subprocesses that import vLLM.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from longrl.config import DifficultySettings, EvaluateSettings, FrameSettings
from longrl.evaluation.extract import score
from longrl.models.chat import question_text
from longrl.progress import Progress
from longrl.training.launch import launch
from longrl.video.sample import FramePlan, plan_frames
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse, digest_folder
from longrl.warehouse.ledger import item_key

VERSION = 1
RESPONSE_VERSION = 1  # changes when a response would differ though its key's other parts do not (prompt form, engine)
RESPOND = "longrl.evaluation.respond"


@dataclass(frozen=True)
class Ask:
    """One wanted response. `seen` is the video whose embeddings the model gets; `plan` is None if it cannot be read."""

    model: str
    question: dict[str, Any]  # a row of DATASET
    mode: str
    sample: int
    frames: int
    seen: str
    plan: FramePlan | None
    error: str | None
    seed: int | None  # of this sample; None is greedy
    key: str = ""

    @property
    def text(self) -> str:
        """The user's turn."""
        return question_text(self.question["question"], self.question["options"])

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What samples of one question have in common."""
        return self.model, self.question["question_id"], self.mode, self.frames


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
        weights = {name: digest_folder(ref.file("hf")) for name, ref in models.items()}
        films = {row["video_id"]: row for row in videos.table().to_dicts()}
        asks = plan_asks(settings, frames, questions, films, weights, seed)
        answers = {key: v for key, v in draft.ledger.get_many(ask.key for ask in asks).items() if not v.get("error")}
        open_asks = [ask for ask in asks if ask.plan is not None and ask.key not in answers]
        draft.facts |= {"questions": len(questions), "responses": len(asks), "reused": len(asks) - len(open_asks)}
        draft.facts["open_questions_left_out"] = split.height - len(questions)  # here letters are scored
        if open_asks:
            folders = {name: str(ref.file("hf")) for name, ref in models.items()}
            draft.facts["engines"] = answer(settings, frames, open_asks, folders, films, draft, warehouse, seed)
            answers |= draft.ledger.get_many(ask.key for ask in open_asks)
        rows = [row(ask, answers.get(ask.key, {})) for ask in asks]
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
    others = derangement(sorted({question["video_id"] for question in questions}), seed)
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
                plan, error = plan_for(films.get(seen), budget, frames)
                draw = sample_seed(seed, question["question_id"], index) if mode == "sampled" else None
                ask = Ask(model, question, mode, index, budget, seen, plan, error, draw)
                asks.append(keyed(ask, weights[model], settings.max_tokens))
    return asks


def keyed(ask: Ask, weights: str, max_tokens: int) -> Ask:
    """The ask under the key of everything its response depends on; model and mode are names only."""
    plan = ask.plan.digest if ask.plan else ""
    key = item_key("response", RESPONSE_VERSION, weights, ask.seen, plan, ask.text, max_tokens, ask.seed)
    return replace(ask, key=key)


def plan_for(film: dict[str, Any] | None, budget: int, frames: FrameSettings) -> tuple[FramePlan | None, str | None]:
    """The frame plan of a video, or the reason there is none."""
    if film is None:
        return None, "the video is not among the ingested ones"
    try:
        return plan_frames(film["duration"], budget, frames.height, frames.width), None
    except ValueError as error:
        return None, str(error)


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """Seed of a sampled answer; the samples of a question have consecutive ones, the same for every model."""
    return int(item_key("sampled", seed, question_id)[:7], 16) + sample


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


def answer(
    settings: EvaluateSettings | DifficultySettings,
    frames: FrameSettings,
    asks: list[Ask],
    folders: Mapping[str, str],
    films: Mapping[str, dict[str, Any]],
    draft: Draft,
    warehouse: Warehouse,
    seed: int,
    temperature: float = 1.0,
) -> list[dict[str, Any]]:
    """Have the open asks answered into the ledger of the draft's stage, those with a seed at this temperature; returns
    what each engine process noted about its work."""
    unique = list({ask.key: ask for ask in asks}.values())  # an RL of zero steps has SFT's weights: asked once
    job = {
        "warehouse": str(warehouse.root),
        "stage": draft.stage,
        "temperature": temperature,
        "models": dict(folders),
        "requests": gather(unique),
        "plans": {ask.plan.digest: asdict(ask.plan) for ask in unique if ask.plan},
        "paths": {ask.seen: films[ask.seen]["path"] for ask in unique},
        "max_tokens": settings.max_tokens,
        "embedding_cache_gib": frames.embedding_cache_gib,
        "seed": seed,
    }
    done: dict[int, int] = {}
    notes: list[dict[str, Any]] = []
    folder = draft.folder / ".engines"
    folder.mkdir(exist_ok=True)
    with Progress(draft.stage, total=len(unique)) as progress:

        def listen(message: dict[str, Any]) -> None:
            if message["kind"] == "answered":
                done[message["rank"]] = message["done"]
                progress.update(sum(done.values()), message["note"])
            elif message["kind"] == "engine":
                notes.append({name: value for name, value in message.items() if name != "kind"})

        launch(RESPOND, job, min(settings.ranks, len({ask.seen for ask in unique})), folder, listen)
    shutil.rmtree(folder)
    return sorted(notes, key=lambda note: note["rank"])


def gather(asks: list[Ask]) -> list[dict[str, Any]]:
    """Engine requests: samples of one question with consecutive seeds share one, and so one prefill."""
    requests: list[dict[str, Any]] = []
    before: Ask | None = None
    for ask in sorted(asks, key=lambda ask: (ask.model, ask.question["question_id"], ask.mode, ask.frames, ask.sample)):
        assert ask.plan is not None
        last = before.seed if before is not None and before.place == ask.place else None
        if last is not None and ask.seed == last + 1:
            requests[-1]["keys"].append(ask.key)
        else:
            request = {"model": ask.model, "text": ask.text, "video_id": ask.seen, "plan": ask.plan.digest}
            requests.append(request | {"greedy": ask.seed is None, "seed": ask.seed or 0, "keys": [ask.key]})
        before = ask
    return requests


def row(ask: Ask, answered: Mapping[str, Any]) -> dict[str, Any]:
    """One row of SAMPLES; without a response it is an error, and wrong."""
    error = ask.error or answered.get("error") or (None if answered else "the engine returned no response")
    response = "" if error else answered["text"]
    judged = score(response, ask.question["options"], ask.question["answer"])
    return {
        "model": ask.model,
        "question_id": ask.question["question_id"],
        "video_id": ask.question["video_id"],
        "category": ask.question["category"],
        "mode": ask.mode,
        "sample": ask.sample,
        "frames": ask.frames,
        "plan": ask.plan.digest if ask.plan else "",
        "response": response,
        "extracted": judged.extracted,
        "gold": ask.question["answer"],
        "correct": judged.correct,
        "well_formed": judged.well_formed,
        "tokens": 0 if error else answered["tokens"],
        "finish": "error" if error else answered["finish"],
        "error": error,
    }
