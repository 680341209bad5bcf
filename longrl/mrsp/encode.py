"""Encode once: embeddings of many videos, from the cache where they are and through the tower where they are not.

Towers mix patches within a temporal patch only (two frames of Qwen-VL, one of others): their full blocks attend within
one, windows lie inside one, rotary positions are those of rows and columns. So a video may be cut between temporal
patches:

1. A video of more patches than one call of the tower takes goes through it in chunks. Chunks depend on the grid alone,
   so the embeddings are the same, bit by bit, however many ranks share the work.
2. `encode_together` deals short videos to the ranks whole. The chunks of a long one are shared out over all ranks and
   gathered by collectives of one size, as many on every rank; a rank without a chunk gives zeros that are cut off.
3. No pixels travel: the ranks read their frames from the frame cache, into which one rank has decoded the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from longrl.models.base import Student
from longrl.models.prompt import Grid
from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey, VideoEmbeds
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.sample import FramePlan
from longrl.video.views import View

PATCHES = 16_384  # patches in one call of the tower: bounds its memory
TOGETHER = 16  # short videos that a rank encodes between two reports

Film = View | tuple[str, str | Path, FramePlan]  # of a video, the kind may be left out


def is_long(grid: Grid) -> bool:
    """Whether a video takes more than one call of the tower."""
    return grid[0] * grid[1] * grid[2] > PATCHES


@torch.no_grad()
def encode_videos(
    student: Student,
    cache: EmbeddingCache,
    frames: FrameCache,
    wanted: Iterable[Film],
    failures: dict[str, str] | None = None,
    tower: str | None = None,
) -> dict[tuple[str, str], VideoEmbeds]:
    """Embeddings by (video id, plan digest) of `wanted`, given as (video id, path, plan[, kind]), on this rank alone.

    What is not in the cache is decoded, encoded with the tower as it is now (`tower` is its digest, if known) and
    stored. A video that cannot be decoded raises `DecodeError`; with `failures` given, its id and reason are put there
    instead and it is left out.
    """
    tower, dtype = tower or student.tower_digest(), dtype_name(student)
    found: dict[tuple[str, str], VideoEmbeds] = {}
    batch: list[tuple[EmbeddingKey, Tensor, Grid]] = []

    def keep(key: EmbeddingKey, embeds: Tensor, grid: Grid) -> None:
        found[key.video_id, key.plan] = VideoEmbeds(embeds.cpu().clone(), grid)
        cache.put(key, found[key.video_id, key.plan])

    def flush() -> None:
        if not batch:
            return
        keys, pixels, grids = zip(*batch, strict=True)
        for key, grid, embeds in zip(keys, grids, student.encode(pixels, grids), strict=True):
            keep(key, embeds, grid)
        batch.clear()

    for video_id, path, plan, kind in dict.fromkeys(View(*film) for film in wanted):
        key = EmbeddingKey(video_id, plan.digest, tower, dtype)
        if video := cache.get(key):
            found[video_id, plan.digest] = video
            continue
        try:
            pictures = frames.get(video_id, path, plan)
        except DecodeError as error:
            if failures is None:
                raise
            failures[video_id] = str(error)
            continue
        if kind == "video" and is_long(grid := student.video(plan).grid):
            keep(key, encode_long(student, pictures, grid), grid)
            continue
        pixels, grid = student.patches(pictures, kind)
        if batch and sum(len(other) for _, other, _ in batch) + len(pixels) > PATCHES:
            flush()
        batch.append((key, pixels, grid))
    flush()
    return found


@torch.no_grad()
def encode_together(
    student: Student,
    cache: EmbeddingCache,
    frames: FrameCache,
    wanted: Sequence[Film],
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Fill the cache with `wanted`, which is the same on all ranks; every rank calls it.

    `report` gets the number of videos that this rank has seen to. Returns, on every rank, the reasons of the videos
    that cannot be decoded, by id.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    tower, dtype = student.tower_digest(), dtype_name(student)
    films = list(dict.fromkeys(View(*film) for film in wanted))
    long = [film for film in films if film.kind == "video" and is_long(student.video(film.plan).grid)]
    short = [film for film in films if film not in set(long)][rank::ranks]
    failures: dict[str, str] = {}
    for start in range(0, len(short), TOGETHER):
        report(start)
        encode_videos(student, cache, frames, short[start : start + TOGETHER], failures, tower)
    missing: list[int] = []  # of the long videos that this rank looks after
    for number in range(rank, len(long), ranks):
        video_id, path, plan, _ = long[number]
        if cache.get(EmbeddingKey(video_id, plan.digest, tower, dtype)):
            continue
        try:
            frames.get(video_id, path, plan)
            missing.append(number)
        except DecodeError as error:
            failures[video_id] = str(error)
    everyone: list[tuple[dict[str, str], list[int]]] = [({}, [])] * ranks
    dist.all_gather_object(everyone, (failures, missing))
    for done, number in enumerate(sorted(number for _, part in everyone for number in part)):
        report(len(short) + done)
        video_id, path, plan, _ = long[number]
        grid = student.video(plan).grid
        embeds = encode_long(student, frames.get(video_id, path, plan), grid, rank, ranks)
        if number in missing:
            cache.put(EmbeddingKey(video_id, plan.digest, tower, dtype), VideoEmbeds(embeds, grid))
    dist.barrier()  # what one rank has stored, all may read
    return {video_id: reason for part, _ in everyone for video_id, reason in part.items()}


def encode_long(student: Student, frames: np.ndarray, grid: Grid, rank: int = 0, ranks: int = 1) -> Tensor:
    """Embed one video in chunks of whole temporal patches, every `ranks`-th of them on this rank.

    `frames`: uint8 (T, height, width, 3). Returns (t * h * w / merge², W), on the CPU, the same on every rank.
    """
    t, h, w = grid
    temporal, tokens = student.temporal, h * w // student.merge**2
    steps = max(1, PATCHES // (h * w))  # temporal patches in a chunk
    parts: list[Tensor] = []
    for first in range(0, t, steps * ranks):
        part = torch.zeros(steps * tokens, student.width, dtype=student.dtype, device=student.device)
        start = first + rank * steps
        if start < t:
            pixels, piece = student.patches(frames[start * temporal : (start + steps) * temporal])
            (embeds,) = student.encode([pixels], [piece])
            part[: len(embeds)] = embeds
        gathered = [part]
        if ranks > 1:
            gathered = [torch.empty_like(part) for _ in range(ranks)]
            dist.all_gather(gathered, part)
        parts += [each.cpu() for each in gathered]
    return torch.cat(parts)[: t * tokens]


def dtype_name(student: Student) -> str:
    """The model's dtype as keys name it."""
    return str(student.dtype).removeprefix("torch.")
