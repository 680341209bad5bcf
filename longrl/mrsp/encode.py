"""Encode once: embeddings of many videos, from the cache where they are and through the tower where they are not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from longrl.models import qwen2_5_vl
from longrl.models.chat import Grid
from longrl.models.qwen2_5_vl import Student
from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey, VideoEmbeds
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.sample import FramePlan

PATCHES = 16_384  # patches in one call of the tower: bounds its memory


@torch.no_grad()
def encode_videos(
    student: Student,
    cache: EmbeddingCache,
    frames: FrameCache,
    wanted: Iterable[tuple[str, str | Path, FramePlan]],
    failures: dict[str, str] | None = None,
) -> dict[tuple[str, str], VideoEmbeds]:
    """Embeddings by (video id, plan digest) of `wanted`, given as (video id, path, plan).

    What is not in the cache is decoded, encoded with the tower as it is now and stored. A video that cannot be decoded
    raises `DecodeError`; with `failures` given, its id and reason are put there instead and it is left out.
    """
    tower, dtype = qwen2_5_vl.tower_digest(student), str(student.model.dtype).removeprefix("torch.")
    found: dict[tuple[str, str], VideoEmbeds] = {}
    batch: list[tuple[EmbeddingKey, torch.Tensor, Grid]] = []

    def flush() -> None:
        if not batch:
            return
        keys, pixels, grids = zip(*batch, strict=True)
        for key, grid, embeds in zip(keys, grids, qwen2_5_vl.encode(student, pixels, grids), strict=True):
            video = VideoEmbeds(embeds.cpu().clone(), grid)
            cache.put(key, video)
            found[key.video_id, key.plan] = video
        batch.clear()

    for video_id, path, plan in dict.fromkeys(wanted):
        key = EmbeddingKey(video_id, plan.digest, tower, dtype)
        if video := cache.get(key):
            found[video_id, plan.digest] = video
            continue
        try:
            pixels, grid = qwen2_5_vl.patches(student, frames.get(video_id, path, plan))
        except DecodeError as error:
            if failures is None:
                raise
            failures[video_id] = str(error)
            continue
        if batch and sum(len(other) for _, other, _ in batch) + len(pixels) > PATCHES:
            flush()
        batch.append((key, pixels, grid))
    flush()
    return found
