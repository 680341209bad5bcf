"""Generate answers: one rank of the job that `longrl.evaluation.asks` launches.

Videos are shared out over the ranks, so that all questions about a video meet its prefix in one engine. A rank builds
one engine (vLLM, or transformers as the reference) and takes each model in turn: its tower encodes the videos (or the
cache has them: RL's frozen tower is SFT's), its weights replace the engine's in place. Responses go to the ledger after
every batch. A prompt that is longer than the model's context is an error of its own and costs nobody else an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from longrl.training.rank import Messages
from longrl.warehouse.artifacts import Warehouse

BATCH = 192  # requests of one generate() call: many enough to fill the engine, few enough to lose little when killed


def main(job: dict[str, Any], messages: Messages) -> None:
    """Answer this rank's share of `job["requests"]`."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)  # each rank has an engine of its own: vLLM must not look for the others
    share = shared_out(job["requests"], rank, world)
    if share:
        Responder(job, rank, messages).run(share)


def shared_out(requests: list[dict[str, Any]], rank: int, world: int) -> list[dict[str, Any]]:
    """The requests of every `world`-th video, those of one video together."""
    mine = set(sorted({request["video_id"] for request in requests})[rank::world])
    return sorted((r for r in requests if r["video_id"] in mine), key=lambda r: (r["video_id"], r["plan"]))


def device() -> str:
    """Where towers and the reference compute."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Responder:
    """One engine, its caches, and the ledger it writes to."""

    def __init__(self, job: dict[str, Any], rank: int, messages: Messages):
        from longrl.mrsp.cache import EmbeddingCache
        from longrl.video.decode import FrameCache
        from longrl.video.sample import FramePlan

        self.job, self.rank, self.messages = job, rank, messages
        warehouse = Warehouse(job["warehouse"])
        self.ledger = warehouse.ledger(job["stage"])
        self.frames = FrameCache(warehouse.cache("frames"))
        self.embeds = EmbeddingCache(warehouse.cache("embeddings"), job["embedding_cache_gib"])
        self.plans = {digest: FramePlan.parse(plan) for digest, plan in job["plans"].items()}
        self.engine: Any = None
        self.done = self.tokens = 0
        self.seconds = {"encode": 0.0, "start": 0.0, "generate": 0.0}

    def run(self, requests: list[dict[str, Any]]) -> None:
        """Answer everything, model by model, then tell what it took."""
        for model in self.job["models"]:
            if mine := [request for request in requests if request["model"] == model]:
                self.ask(model, mine, requests)
        self.messages.send(
            "engine",
            rank=self.rank,
            responses=self.done,
            tokens=self.tokens,
            embeds={"cached": self.embeds.hits, "encoded": self.embeds.encodes},
            seconds={name: round(value, 1) for name, value in self.seconds.items()},
            cpu_seconds=round(time.process_time(), 1),
        )

    def ask(self, model: str, requests: list[dict[str, Any]], all_requests: list[dict[str, Any]]) -> None:
        """Answer the requests of one model."""
        from longrl.models import families

        folder = self.job["models"][model]
        with self.timed("encode"):
            student = families.load(folder, self.job["dtype"], device())
            embeds, failures = self.encode(student, requests)
        readable = []
        for request in requests:
            views = [tuple(view) for view in request["views"]]
            films = [embeds[view[:2]] for view in views if view[:2] in embeds]
            reason = next((failures[view[0]] for view in views if view[0] in failures), "it could not be encoded")
            if len(films) == len(views):
                prompt = self.prompt(student, request)
                reason = self.too_long(len(prompt), student)
                if not reason:
                    parts = [
                        student.split(kind, self.plans[digest], film.embeds)
                        for (_, digest, kind), film in zip(views, films, strict=True)
                    ]
                    readable.append((request, prompt, tuple(chain.from_iterable(parts))))
                    continue
            self.record(request, [{"error": reason}] * len(request["keys"]))
        self.tell(model)
        if readable:
            with self.timed("start"):
                self.load_engine(folder, student, all_requests)
        size = BATCH if self.job["engine"] == "vllm" else 1
        for start in range(0, len(readable), size):
            with self.timed("generate"):
                self.generate(readable[start : start + size])
            self.tell(model)

    def encode(self, student: Any, requests: list[dict[str, Any]]) -> tuple[dict[Any, Any], dict[str, str]]:
        """Embeddings by (video, plan), and why a video has none; each file is decoded once for all its plans."""
        from longrl.mrsp.encode import encode_videos
        from longrl.video.decode import DecodeError
        from longrl.video.views import View

        plans: dict[str, list[Any]] = {}
        kinds: dict[str, Any] = {}
        for video, digest, kind in sorted({tuple(view) for request in requests for view in request["views"]}):
            plans.setdefault(video, []).append(self.plans[digest])
            kinds[video] = kind
        failures: dict[str, str] = {}
        for video, wanted in plans.items():
            try:
                self.frames.get_many(video, self.job["paths"][video], wanted)
            except DecodeError as error:
                failures[video] = str(error)
        films = [
            View(video, self.job["paths"][video], plan, kinds[video])
            for video, wanted in plans.items()
            if video not in failures
            for plan in wanted
        ]
        return encode_videos(student, self.embeds, self.frames, films, failures), failures

    def prompt(self, student: Any, request: dict[str, Any]) -> Any:
        """The prompt of a request."""
        seen = [student.media(kind, self.plans[digest]) for _, digest, kind in request["views"]]
        return student.chat.prompt(request["text"], seen)

    def too_long(self, prompt: int, student: Any) -> str:
        """Why a prompt of so many tokens cannot be answered; empty when it can."""
        context, answer = student.context, self.job["max_tokens"]
        if prompt + answer <= context:
            return ""
        return f"the prompt takes {prompt} tokens and the answer up to {answer}, the model's context is {context}"

    def load_engine(self, folder: str, student: Any, all_requests: list[dict[str, Any]]) -> None:
        """Start the engine with the first model, with room for the longest prompt of all; later, change its weights."""
        from longrl.rollout.reference import Reference, engine_for

        if engine_for(folder, self.job["engine"]) == "transformers":
            self.engine = Reference(student)
            return
        from longrl.rollout.vllm import Engine

        if self.engine is not None:
            self.engine.update_weights(student.model.state_dict())
            return
        longest = 0
        for request in {(request["text"], request["plan"]): request for request in all_requests}.values():
            length = len(self.prompt(student, request))
            longest = max(longest, 0 if self.too_long(length, student) else length)
        context = longest + self.job["max_tokens"]
        self.engine = Engine(folder, max_model_len=context, seed=self.job["seed"], dtype=self.job["dtype"])

    def generate(self, batch: list[tuple[dict[str, Any], Any, Any]]) -> None:
        """One call of the engine; its responses are in the ledger when this returns."""
        from longrl.rollout.request import Request

        wanted = [
            Request(
                prompt,
                embeds,
                n=len(request["keys"]),
                temperature=0.0 if request["greedy"] else self.job["temperature"],
                max_tokens=self.job["max_tokens"],
                seed=request["seed"],
            )
            for request, prompt, embeds in batch
        ]
        started = time.monotonic()
        groups = self.engine.generate(wanted)
        each = round((time.monotonic() - started) / sum(len(rollouts) for rollouts in groups), 4)  # a batch is shared
        for (request, _, _), rollouts in zip(batch, groups, strict=True):
            answers = [
                {"text": r.text, "tokens": len(r.token_ids), "finish": r.finish, "seconds": each} for r in rollouts
            ]
            self.tokens += sum(answer["tokens"] for answer in answers)
            self.record(request, answers)

    def record(self, request: dict[str, Any], answers: list[dict[str, Any]]) -> None:
        """Put a request's answers into the ledger."""
        for key, answer in zip(request["keys"], answers, strict=True):
            self.ledger.put(key, answer)
        self.done += len(answers)

    def tell(self, model: str) -> None:
        """Progress, for the launcher to add up."""
        self.messages.send("answered", rank=self.rank, done=self.done, note=model)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's wall seconds to `seconds[name]`."""
        started = time.monotonic()
        yield
        self.seconds[name] += time.monotonic() - started
