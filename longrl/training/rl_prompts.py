"""The prompts of RL: questions of the split "rl" with their videos' embeddings, encoded once, read from the cache."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch.distributed as dist
from torch import Tensor

from longrl.config import FrameSettings, RlSettings
from longrl.models.base import Student
from longrl.models.chat import question_text
from longrl.models.prompt import Prompt
from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey, VideoEmbeds
from longrl.mrsp.encode import encode_together, encode_videos
from longrl.rollout.request import Request
from longrl.training.rank import Messages, TrainingError
from longrl.video.decode import FrameCache
from longrl.video.views import View, views_of


class Embeddings:
    """Video embeddings by question, from the cache."""

    def __init__(
        self, student: Student, folder: str, frame_cache: str, videos: pl.DataFrame, frames: FrameSettings
    ) -> None:
        self.cache = EmbeddingCache(folder, frames.embedding_cache_gib)
        self.frame_cache, self.frames = FrameCache(frame_cache), frames
        self.student, self.videos = student, {row["video_id"]: row for row in videos.iter_rows(named=True)}
        self.tower = student.tower_digest()
        self.dtype = str(student.dtype).removeprefix("torch.")

    @property
    def encoded(self) -> int:
        """Videos that this rank has put through the tower."""
        return self.cache.encodes

    def views(self, row: dict[str, Any]) -> tuple[View, ...]:
        """What the student sees with a question: a video at the headline budget, images, or nothing."""
        return views_of(row, self.videos, self.frames, self.frames.budget)

    def encode(self, dataset: pl.DataFrame, messages: Messages, judged: bool = False) -> list[dict[str, Any]]:
        """Fill the cache, videos shared out over the ranks; returns the questions whose videos can be decoded.

        Open questions are among them where they are `judged`.
        """
        rows, left_out = answerable(dataset, judged)
        if dist.get_rank() == 0:
            messages.send("facts", open_questions_left_out=left_out)
        rank, ranks = dist.get_rank(), dist.get_world_size()
        asked = rows.sort("video_id").iter_rows(named=True)
        views = list(dict.fromkeys(view for row in asked for view in self.views(row)))

        def report(done: int) -> None:
            if rank == 0:
                messages.progress(0, f"encoding {min(done * ranks + 1, len(views))} of {len(views)} videos and images")

        broken: dict[str, str] = {}
        if views:
            broken = encode_together(self.student, self.cache, self.frame_cache, views, report)
        self.cache.hits = 0
        for video_id, reason in sorted(broken.items()) if rank == 0 else ():
            messages.send("reject", item=video_id, rule="decode", reason=reason)
        kept = [
            row for row in rows.iter_rows(named=True) if not any(view.video_id in broken for view in self.views(row))
        ]
        if not kept:
            raise TrainingError(
                "no question of the split rl that can be rewarded has a video that can be decoded; "
                "lower curate.sft_share"
            )
        return kept

    def prompt(self, row: dict[str, Any]) -> Prompt:
        """The prompt of a question."""
        seen = [self.student.media(view.kind, view.plan) for view in self.views(row)]
        return self.student.chat.prompt(question_text(row["question"], row["options"]), seen)

    def request(self, row: dict[str, Any], settings: RlSettings, seed: int) -> Request:
        """The rollout request of a question."""
        prompt = self.prompt(row)
        embeds = tuple(part for view in self.views(row) for part in self.embeds(view, settings.zero_stage))
        return Request(prompt, embeds, settings.group_size, settings.temperature, settings.max_tokens, seed)

    def embeds(self, view: View, zero_stage: int) -> tuple[Tensor, ...]:
        """Embeddings of what is seen and heard, (tokens, W) each, on the student's device."""
        key = EmbeddingKey(view.video_id, view.plan.digest, self.tower, self.dtype)
        found = self.cache.get(key) or self.encode_again(view, zero_stage)
        return self.student.split(view.kind, view.plan, found.embeds.to(self.student.device))

    def encode_again(self, view: View, zero_stage: int) -> VideoEmbeds:
        """An embedding whose file broke or was deleted while the run goes on."""
        if zero_stage == 3:  # the tower's weights are spread over ranks that do not encode now
            raise TrainingError(f"the embedding of video {view.video_id} has left the cache; run again to encode it")
        found = encode_videos(self.student, self.cache, self.frame_cache, [view], tower=self.tower)
        return found[view.video_id, view.plan.digest]


def answerable(dataset: pl.DataFrame, judged: bool) -> tuple[pl.DataFrame, int]:
    """The questions of the split "rl" that can be rewarded, and how many open ones are left out.

    Open answers are `judged` by the rewards `judge` and `match`; the others read letters.
    """
    split = dataset.filter(pl.col("split") == "rl")
    rows = split.filter((pl.col("kind") == "choice") | judged).sort("question_id")
    return rows, split.height - rows.height


def prompt_lengths(videos: Embeddings, questions: list[dict[str, Any]]) -> list[int]:
    """Tokens of each question's prompt, its media's included."""
    return [len(videos.prompt(row)) for row in questions]
