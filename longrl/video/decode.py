"""The one decode room: frames of a video by timestamp, images, and a cache of both.

Decoding happens in a worker process (`longrl.video.crew`), whoever asks, so a file that hangs, crashes or blows up its
decoder costs that file only. Frames come upright and shrunk one by one as they are decoded, and the cache writes them
to disk one by one, so neither a long film nor a long plan fills the memory.

PyAV reads (`longrl.video.seek`). decord does not: it was never faster, about 3 times slower on an hour-long film (`make
bench NAME=decode`), and it returned wrong frames without a word from films with HEVC's open groups of pictures, intra
refresh or MPEG transport streams, kinds of file that tests/unit/test_seek.py reads.

A frame that can't be decoded is an error, never a repeated neighbour.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np

from longrl.errors import LongrlError
from longrl.video.crew import WorkerLost, apart
from longrl.video.image import is_image
from longrl.video.image import picture as still
from longrl.video.sample import FramePlan
from longrl.video.seek import DamagedFrame, frames_at
from longrl.warehouse.sharing import unfinished

Job = TypeVar("Job")
Result = TypeVar("Result")


class DecodeError(LongrlError):
    """A video can't be read; the message says what the decoder found."""


def read_frames(path: str | Path, plan: FramePlan) -> np.ndarray:
    """The frames shown at the plan's times: uint8 (T, H, W, 3), RGB, upright, resized to the plan's size.

    The frame shown at time t is the last one that starts at or before t; times past the end take the last frame.
    Raises `DecodeError` with the decoder's reason. For plans whose frames fit into memory several times.
    """
    return decode_apart(_read, (str(path), plan))


class FrameCache:
    """Decoded frames on disk, one memory-mapped .npy per (video, plan); safe for any number of processes."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def get(self, video_id: str, path: str | Path, plan: FramePlan) -> np.ndarray:
        """The plan's frames, uint8 (T, H, W, 3), read-only and memory-mapped; decoded on the first call."""
        return self.get_many(video_id, path, [plan])[0]

    def get_many(self, video_id: str, path: str | Path, plans: Sequence[FramePlan]) -> list[np.ndarray]:
        """One array per plan that has frames, in order; what is missing is decoded in one pass per frame size."""
        plans = [plan.pictures for plan in plans if plan.times]
        missing: dict[tuple[int, int], list[tuple[FramePlan, Path]]] = defaultdict(list)
        for plan in dict.fromkeys(plans):
            if not (file := self._file(video_id, plan)).exists():
                missing[plan.height, plan.width].append((plan, file))
        for wanted in missing.values():
            decode_apart(_store, (str(path), wanted))
        return [np.load(self._file(video_id, plan), mmap_mode="r") for plan in plans]

    def _file(self, video_id: str, plan: FramePlan) -> Path:
        return self.folder / video_id[:2] / f"{video_id}-{plan.digest}.npy"


def each_frame(path: str | Path, plan: FramePlan) -> Iterator[np.ndarray]:
    """One frame, uint8 (H, W, 3), for each of the plan's times, in this process and without its protection.

    Raises `DecodeError`.
    """
    if is_image(path):
        try:
            yield from [still(path, plan.height, plan.width)] * len(plan.times)
        except (OSError, ValueError) as error:
            raise DecodeError(_brief(error)) from error
        return
    import av
    from av.video.reformatter import VideoReformatter

    av.logging.set_level(av.logging.PANIC)
    scaler, last, small = VideoReformatter(), None, np.empty(0, np.uint8)
    try:
        for frame in frames_at(str(path), plan.times):
            if frame is not last:
                turn = round(frame.rotation / 90) % 4
                size = (plan.height, plan.width) if turn % 2 else (plan.width, plan.height)
                picture = scaler.reformat(frame, *size, format="rgb24", interpolation="BILINEAR").to_ndarray()
                last, small = frame, np.rot90(picture, turn)
            yield small
    except (av.error.FFmpegError, DamagedFrame) as error:
        raise DecodeError(_brief(error)) from error


def decode_apart(work: Callable[[tuple[str, Job]], Result], job: tuple[str, Job]) -> Result:
    """Do work on a file in a worker process; a lost worker is a `DecodeError` of the file."""
    if not Path(job[0]).is_file():
        raise DecodeError("the file is gone; run again to ingest the folder as it is now")
    try:
        return apart(work, job)
    except WorkerLost as error:
        raise DecodeError(f"{Path(job[0]).name}: {error}") from error


def _read(job: tuple[str, FramePlan]) -> np.ndarray:
    path, plan = job
    frames = np.empty((len(plan.times), plan.height, plan.width, 3), np.uint8)
    for row, frame in enumerate(each_frame(path, plan)):
        frames[row] = frame
    return frames


def _store(job: tuple[str, list[tuple[FramePlan, Path]]]) -> None:
    """Decode plans of one frame size in one pass, each into its own file; a file appears whole or not at all."""
    path, wanted = job
    times = sorted({time for plan, _ in wanted for time in plan.times})
    rows: dict[float, list[tuple[np.ndarray, int]]] = defaultdict(list)
    with ExitStack() as partials:
        drafts = []
        for plan, final in wanted:
            final.parent.mkdir(parents=True, exist_ok=True)
            partial = unfinished(final)
            partials.callback(partial.unlink, missing_ok=True)  # left only when the decoder or the disk gave up
            shape = (len(plan.times), plan.height, plan.width, 3)
            array = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
            for row, time in enumerate(plan.times):
                rows[time].append((array, row))
            drafts.append((array, partial, final))
        height, width = wanted[0][0].height, wanted[0][0].width
        for time, frame in zip(times, each_frame(path, FramePlan(tuple(times), height, width)), strict=True):
            for array, row in rows[time]:
                array[row] = frame
        for array, partial, final in drafts:
            array.flush()
            os.replace(partial, final)


def _brief(error: Exception) -> str:
    """The first line of a decoder's message, without its source locations."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text.split("] ")[-1].strip()[:200]
