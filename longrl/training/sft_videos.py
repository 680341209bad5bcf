"""The videos of SFT: decoded once before the first step, and embedded once too where the vision tower is frozen.

Every budget of every video, and every clip, is a view of its own: many large ones may not fit into the cache. Then the
frozen tower runs at every step, as a trained one does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from longrl.models.base import Student
from longrl.mrsp.cache import EmbeddingCache
from longrl.mrsp.encode import encode, encode_together, encode_videos, read
from longrl.training.rank import Messages
from longrl.video.audio import SoundCache
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.views import View


class Films:
    """Embeddings of views: through the tower at each call while it is trained, from the cache when it is frozen."""

    def __init__(self, student: Student, frames: FrameCache):
        self.student, self.frames = student, frames
        self.cache: EmbeddingCache | None = None
        self._tower = ""

    def freeze(self, cache: EmbeddingCache, views: Sequence[View], messages: Messages) -> None:
        """From now on take embeddings from `cache`, where those of `views` are when this returns; every rank calls it.

        To be called before an engine shards the tower's weights. Nothing is done when they don't fit into the cache.
        """
        films = list(dict.fromkeys(views))
        width = self.student.width * self.student.dtype.itemsize
        size = sum(medium.tokens * width for film in films for medium in self.student.media(film.kind, film.plan))
        if cache.limit is not None and size > cache.limit:
            if dist.get_rank() == 0:
                messages.warn(
                    f"the embeddings of {len(films)} views take {size / 2**30:.1f} GiB, more than "
                    "frames.embedding_cache_gib: the frozen vision tower runs at every step instead of once a view"
                )
            return
        self.cache, self._tower = cache, self.student.tower_digest()
        if dist.get_rank() == 0:
            messages.progress(0, f"encoding {len(films)} views of videos and images")
        encode_together(self.student, cache, self.frames, films)
        cache.hits = 0

    def embeds(self, views: Sequence[View]) -> list[Tensor]:
        """One (tokens, W) a view, all in one call of the tower where it is needed."""
        if self.cache is None:
            with torch.set_grad_enabled(self.student.trains_encoders):
                return encode(self.student, [read(self.frames, view) for view in views])
        found = encode_videos(self.student, self.cache, self.frames, views, tower=self._tower)
        return [found[view.video_id, view.plan.digest].embeds.to(self.student.device) for view in views]


def decode(views: Sequence[View], cache: FrameCache, messages: Messages) -> dict[str, str]:
    """Put every view's frames into the cache, videos shared out over the ranks; returns the broken ones' reasons."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    by_video: dict[str, list[View]] = {}
    for view in views:
        by_video.setdefault(view.video_id, []).append(view)
    failures: dict[str, str] = {}
    mine = sorted(by_video)[rank::ranks]
    for number, video_id in enumerate(mine):
        wanted = by_video[video_id]
        try:
            cache.get_many(video_id, wanted[0].path, [view.plan for view in wanted if view.plan.times])
            for span in {view.plan.audio for view in wanted if view.plan.audio}:
                SoundCache(cache.folder).get(video_id, wanted[0].path, span)
        except DecodeError as error:
            failures[video_id] = str(error)
        if rank == 0:
            messages.progress(0, f"decoding video {number * ranks + 1} of {len(by_video)}")
    everyone: list[dict[str, str]] = [{}] * ranks
    dist.all_gather_object(everyone, failures)
    return {video_id: reason for part in everyone for video_id, reason in part.items()}
