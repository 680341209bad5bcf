"""What is asked of a model, and the engines that answer it: shared by `evaluate`, `benchmark` and `difficulty`.

An ask is one wanted response. Its key hashes everything the response depends on (who answers, the video, its frame
plan, the prompt, the sampling), and the response is an item of the stage's ledger under that key. So a killed run goes
on where it was, a model that was asked before is not asked again, and equal asks are asked once.

This process plans; `longrl.evaluation.respond` generates, in subprocesses that import vLLM or transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from longrl.config import FrameSettings
from longrl.progress import Progress
from longrl.training.launch import launch
from longrl.video.sample import FramePlan, plan_frames
from longrl.video.views import View, digest_of, views_of
from longrl.warehouse.artifacts import Draft, Warehouse
from longrl.warehouse.ledger import item_key

RESPONSE_VERSION = 1  # changes when a response would differ though its key's other parts do not (prompt form, engine)
RESPOND = "longrl.evaluation.respond"
UNANSWERED = "the engine returned no response"


@dataclass(frozen=True)
class Ask:
    """One wanted response.

    `seen` is the video whose embeddings the model gets, or the group of media; `plan` is None if it cannot be read.
    `media` are shown in place of the video: images, or nothing.
    """

    model: str
    question_id: str
    text: str  # the user's turn
    mode: str
    sample: int
    frames: int
    seen: str
    plan: FramePlan | None
    error: str | None
    seed: int | None  # of this sample; None is greedy
    key: str = ""
    media: tuple[View, ...] | None = None

    @property
    def readable(self) -> bool:
        """Whether there is something to ask."""
        return self.plan is not None or self.media is not None

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What samples of one question have in common."""
        return self.model, self.question_id, self.mode, self.frames

    @property
    def digest(self) -> str:
        """The frame plan's, or that of all media; empty without one."""
        if self.media is not None:
            return digest_of(self.media)
        return self.plan.digest if self.plan else ""

    def views(self, paths: Mapping[str, str]) -> tuple[View, ...]:
        """What the model is shown; `paths` are the files of the videos."""
        if self.media is not None:
            return self.media
        assert self.plan is not None
        return (View(self.seen, paths[self.seen], self.plan),)

    def keyed(self, who: str, *sampling: Any) -> Ask:
        """The ask under its key; `who` is the digest of the weights, or an endpoint and its model."""
        parts = (who, self.seen, self.digest, self.text, *sampling, self.seed)
        return replace(self, key=item_key("response", RESPONSE_VERSION, *parts))

    def failure(self, answered: Mapping[str, Any]) -> str | None:
        """Why there is no response; None where there is one."""
        return self.error or answered.get("error") or (None if answered else UNANSWERED)


@dataclass(frozen=True)
class Means:
    """How engines work: what is sampled, and on what."""

    max_tokens: int
    ranks: int
    embedding_cache_gib: float
    seed: int = 0  # of the engine; samples have their own
    temperature: float = 1.0  # of asks with a seed
    engine: Literal["vllm", "transformers"] = "vllm"
    dtype: Literal["float32", "bfloat16"] = "float32"


def plan_for(
    film: Mapping[str, Any] | None, budget: int, frames: FrameSettings, span: tuple[float, float] | None = None
) -> tuple[FramePlan | None, str | None]:
    """The frame plan of a video or of a span of it (seconds; it may end after the video), or why there is none."""
    if film is None:
        return None, "the video is not among the ingested ones"
    duration = film["duration"]
    start, end = span or (0.0, duration)
    try:
        end = min(end, duration)
        return plan_frames(duration, budget, frames.height, frames.width, start, end, frames.audio), None
    except ValueError as error:
        return None, str(error)


def media_of(question: Mapping[str, Any], frames: FrameSettings) -> tuple[View, ...] | None:
    """What a row of DATASET shows in place of a video; None where it shows one."""
    return None if question.get("media") is None else views_of(question, {}, frames, frames.budget)


def sample_seed(seed: int, question_id: str, sample: int) -> int:
    """Seed of a sampled answer; the samples of a question have consecutive ones, the same for every model."""
    return int(item_key("sampled", seed, question_id)[:7], 16) + sample


def known(asks: Iterable[Ask], draft: Draft) -> dict[str, Any]:
    """Responses by key that the ledger has; failures are not among them, so they are tried again."""
    return {key: value for key, value in draft.ledger.get_many(ask.key for ask in asks).items() if "error" not in value}


def unique(asks: Iterable[Ask]) -> list[Ask]:
    """One ask of each key: an RL of zero steps has SFT's weights, and a benchmark may repeat a question."""
    return list({ask.key: ask for ask in asks}.values())


def answer(
    asks: Iterable[Ask],
    folders: Mapping[str, str],
    paths: Mapping[str, str],
    means: Means,
    draft: Draft,
    warehouse: Warehouse,
) -> list[dict[str, Any]]:
    """Have asks with a plan answered into the ledger of the draft's stage.

    `folders` are the models' Hugging Face folders by name, `paths` the files of the videos. Returns what each engine
    process noted about its work. Raises `TrainingError` when an engine fails; what it had answered by then is kept.
    """
    wanted = unique(asks)
    job = asdict(means) | {
        "warehouse": str(warehouse.root),
        "stage": draft.stage,
        "models": dict(folders),
        "requests": gather(wanted, paths),
        "plans": {view.plan.digest: asdict(view.plan) for ask in wanted for view in ask.views(paths)},
        "paths": {view.video_id: str(view.path) for ask in wanted for view in ask.views(paths)},
    }
    done: dict[int, int] = {}
    notes: list[dict[str, Any]] = []
    folder = draft.folder / ".engines"
    folder.mkdir(exist_ok=True)
    with Progress(draft.stage, total=len(wanted)) as progress:

        def listen(message: dict[str, Any]) -> None:
            if message["kind"] == "answered":
                done[message["rank"]] = message["done"]
                progress.update(sum(done.values()), message["note"])
            elif message["kind"] == "engine":
                notes.append({name: value for name, value in message.items() if name != "kind"})

        launch(RESPOND, job, min(means.ranks, len({ask.seen for ask in wanted})), folder, listen)
    shutil.rmtree(folder)
    return sorted(notes, key=lambda note: note["rank"])


def gather(asks: Iterable[Ask], paths: Mapping[str, str]) -> list[dict[str, Any]]:
    """Engine requests: samples of one question with consecutive seeds share one, and so one prefill."""
    requests: list[dict[str, Any]] = []
    before: Ask | None = None
    for ask in sorted(asks, key=lambda ask: (*ask.place, ask.sample)):
        last = before.seed if before is not None and before.place == ask.place else None
        if last is not None and ask.seed == last + 1:
            requests[-1]["keys"].append(ask.key)
        else:
            request: dict[str, Any] = {"model": ask.model, "text": ask.text, "video_id": ask.seen, "plan": ask.digest}
            request["views"] = [(view.video_id, view.plan.digest, view.kind) for view in ask.views(paths)]
            requests.append(request | {"greedy": ask.seed is None, "seed": ask.seed or 0, "keys": [ask.key]})
        before = ask
    return requests
