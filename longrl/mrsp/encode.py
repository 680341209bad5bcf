"""Encode once: embeddings of many videos, from the cache where they are and through the tower where they are not.

Towers mix patches within a temporal patch only (two frames of Qwen-VL, one of others): their full blocks attend within
one, windows lie inside one, rotary positions are those of rows and columns. So a video may be cut between temporal
patches:

1. A video of more patches than one call of the tower takes goes through it in chunks. Chunks depend on the grid alone,
   so the embeddings are the same, bit by bit, however many ranks share the work.
2. `encode_together` deals short videos to the ranks whole. The chunks of a long one are shared out over all ranks and
   gathered by collectives of one size, as many on every rank; a rank without a chunk gives zeros that are cut off.
3. No pixels travel: the ranks read their frames from the frame cache, into which one rank has decoded the video.

A plan with sound has one entry in the cache, in which the sound's embeddings follow the video's; the sound of a long
video is embedded by one rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from longrl.models.base import Student
from longrl.models.prompt import Grid, Medium
from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey, VideoEmbeds
from longrl.video.audio import SoundCache
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.sample import FramePlan
from longrl.video.views import View

PATCHES = 16_384  # patches in one call of the tower: bounds its memory
TOGETHER = 16  # short videos that a rank encodes between two reports

Film = View | tuple[str, str | Path, FramePlan]  # of a video, the kind may be left out


@dataclass(frozen=True)
class Shown:
    """What a view takes from its file: frames, uint8 (T, height, width, 3), and samples of sound, float32 (n,)."""

    view: View
    frames: np.ndarray | None
    sound: np.ndarray | None

    def grid(self, student: Student) -> Grid:
        """The patch grid of the video or the image; of a sound alone, that of the sound."""
        return student.media(self.view.kind, self.view.plan)[0].grid

    def beside(self, student: Student, embeds: Tensor) -> Tensor:
        """A video's embeddings followed by those of its sound."""
        if self.sound is None:
            return embeds
        (heard,) = student.hear([self.sound])
        return torch.cat([embeds, heard.to(embeds.device)])


def read(frames: FrameCache, view: View) -> Shown:
    """Read what a view takes, decoded on the first call. Raises `DecodeError`."""
    video_id, path, plan, _ = view
    pictures = frames.get(video_id, path, plan) if plan.times else None
    return Shown(view, pictures, SoundCache(frames.folder).get(video_id, path, plan.audio) if plan.audio else None)


def encode(student: Student, wanted: Sequence[Shown]) -> list[Tensor]:
    """Embed what several views take: (tokens, W) each, a video's before its sound's; differentiable.

    Each tower is called once for all of them.
    """
    films = [student.patches(shown.frames, shown.view.kind) for shown in wanted if shown.frames is not None]
    seen = iter(student.encode([pixels for pixels, _ in films], [grid for _, grid in films]) if films else ())
    sounds = [shown.sound for shown in wanted if shown.sound is not None]
    heard = iter(student.hear(sounds) if sounds else ())
    found = []
    for shown in wanted:
        parts = [] if shown.frames is None else [next(seen)]
        parts += [] if shown.sound is None else [next(heard)]
        found.append(torch.cat(parts) if len(parts) > 1 else parts[0])
    return found


def patches_of(student: Student, grid: Grid) -> int:
    """Patches that a tower sees of a medium."""
    return grid[0] * student.patches_a_step(grid)


def is_long(student: Student, grid: Grid) -> bool:
    """Whether a video takes more than one call of the tower."""
    return patches_of(student, grid) > PATCHES


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
    batch: list[tuple[EmbeddingKey, Shown]] = []
    waiting = 0  # patches in the batch

    def keep(key: EmbeddingKey, embeds: Tensor, grid: Grid) -> None:
        found[key.video_id, key.plan] = VideoEmbeds(embeds.cpu().clone(), grid)
        cache.put(key, found[key.video_id, key.plan])

    def flush() -> None:
        for (key, shown), embeds in zip(batch, encode(student, [shown for _, shown in batch]), strict=True):
            keep(key, embeds, shown.grid(student))
        batch.clear()

    for view in dict.fromkeys(View(*film) for film in wanted):
        key = EmbeddingKey(view.video_id, view.plan.digest, tower, dtype)
        if video := cache.get(key):
            found[view.video_id, view.plan.digest] = video
            continue
        try:
            shown = read(frames, view)
        except DecodeError as error:
            if failures is None:
                raise
            failures[view.video_id] = str(error)
            continue
        grid = shown.grid(student)
        if shown.frames is not None and view.kind == "video" and is_long(student, grid):
            keep(key, shown.beside(student, encode_long(student, shown.frames, student.video(view.plan))), grid)
            continue
        waiting += patches_of(student, grid)
        if batch and waiting > PATCHES:
            flush()
            waiting = patches_of(student, grid)
        batch.append((key, shown))
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
    seen = [film for film in films if film.kind == "video" and film.plan.times]
    long = [film for film in seen if is_long(student, student.video(film.plan).grid)]
    short = [film for film in films if film not in set(long)][rank::ranks]
    failures: dict[str, str] = {}
    for start in range(0, len(short), TOGETHER):
        report(start)
        encode_videos(student, cache, frames, short[start : start + TOGETHER], failures, tower)
    missing: list[int] = []  # of the long videos that this rank looks after
    for number in range(rank, len(long), ranks):
        view = long[number]
        if cache.get(EmbeddingKey(view.video_id, view.plan.digest, tower, dtype)):
            continue
        try:
            read(frames, view)
            missing.append(number)
        except DecodeError as error:
            failures[view.video_id] = str(error)
    everyone: list[tuple[dict[str, str], list[int]]] = [({}, [])] * ranks
    dist.all_gather_object(everyone, (failures, missing))
    for done, number in enumerate(sorted(number for _, part in everyone for number in part)):
        report(len(short) + done)
        view = long[number]
        shown, medium = read(frames, view), student.video(view.plan)
        assert shown.frames is not None
        embeds = encode_long(student, shown.frames, medium, rank, ranks)
        if number in missing:
            whole = VideoEmbeds(shown.beside(student, embeds), medium.grid)
            cache.put(EmbeddingKey(view.video_id, view.plan.digest, tower, dtype), whole)
    dist.barrier()  # what one rank has stored, all may read
    return {video_id: reason for part, _ in everyone for video_id, reason in part.items()}


def encode_long(student: Student, frames: np.ndarray, medium: Medium, rank: int = 0, ranks: int = 1) -> Tensor:
    """Embed one video in chunks of whole temporal patches, every `ranks`-th of them on this rank.

    `frames`: uint8 (T, height, width, 3). Returns (tokens, W), on the CPU, the same on every rank.
    """
    t, temporal, closing = medium.grid[0], student.temporal, student.closing()
    tokens = (medium.tokens - len(closing)) // t  # of a temporal patch
    steps = max(1, PATCHES // student.patches_a_step(medium.grid))  # temporal patches in a chunk
    parts: list[Tensor] = []
    for first in range(0, t, steps * ranks):
        part = torch.zeros(steps * tokens, student.width, dtype=student.dtype, device=student.device)
        start = first + rank * steps
        if start < t:
            pixels, piece = student.patches(frames[start * temporal : (start + steps) * temporal])
            (embeds,) = student.encode([pixels], [piece])
            part[: piece[0] * tokens] = embeds[: piece[0] * tokens]
        gathered = [part]
        if ranks > 1:
            gathered = [torch.empty_like(part) for _ in range(ranks)]
            dist.all_gather(gathered, part)
        parts += [each.cpu() for each in gathered]
    return torch.cat([torch.cat(parts)[: t * tokens], closing.cpu()])


def dtype_name(student: Student) -> str:
    """The model's dtype as keys name it."""
    return str(student.dtype).removeprefix("torch.")
