"""Short silent clips of films, small enough to be part of a page: what a question is about, at its real speed.

A clip is kept in the warehouse's cache under the video and its frame plan, so that a page that is written again encodes
only what is new.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longrl.teachers.pictures import jpeg_url, mp4
from longrl.video.decode import read_frames
from longrl.video.sample import FramePlan, fit
from longrl.warehouse.sharing import unfinished

LONGEST = 60.0  # seconds of film in one clip; what is longer is played from its own file
LONGER_SIDE = 224  # pixels
RATE = 8.0  # frames a second, fewer where a clip would have more than FRAMES
FRAMES = 160
QUALITY = 30  # H.264's constant rate factor

Span = tuple[float, float]  # seconds of a film, from and to


@dataclass(frozen=True)
class Clip:
    """A clip as the page holds it: an mp4 and the picture before it is played, as data URLs."""

    video: str
    poster: str


class Clips:
    """Cuts clips, or finds those that were cut before."""

    def __init__(self, folder: Path):
        self.folder = folder

    def cut(self, video_id: str, path: str | Path, size: tuple[int, int], spans: Sequence[Span]) -> Clip:
        """The spans of a film of `size` (width, height), one after the other; raises `DecodeError`."""
        plan = FramePlan(moments(spans), *fit(*size, min(LONGER_SIDE, max(size))))
        file = self.folder / video_id[:2] / f"{video_id}-{plan.digest}.mp4"
        poster = file.with_suffix(".txt")
        if not (file.exists() and poster.exists()):
            frames = read_frames(path, plan)
            file.parent.mkdir(parents=True, exist_ok=True)
            put(poster, jpeg_url(frames[len(frames) // 2], quality=70).encode())
            put(file, mp4(frames, seconds_of(spans), QUALITY))
        return Clip(f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}", poster.read_text())


def joined(spans: Sequence[Span], duration: float) -> tuple[Span, ...]:
    """The spans within a film in the order of time, those that touch made one; the whole film where there are none.

    >>> joined([(10, 20), (0, 10), (30, 50)], 40.0)
    ((0, 20), (30, 40.0))
    """
    result: list[Span] = []
    for start, end in sorted((max(0.0, start), min(end, duration)) for start, end in spans):
        if result and start <= result[-1][1] + 1e-6:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif end > start:
            result.append((start, end))
    return tuple(result) or ((0.0, duration),)


def seconds_of(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def moments(spans: Sequence[Span]) -> tuple[float, ...]:
    """The times of a clip's frames, evenly spread over its spans.

    >>> moments([(0.0, 0.25), (1.0, 1.25)])
    (0.0625, 0.1875, 1.0625, 1.1875)
    """
    total = seconds_of(spans)
    count = min(FRAMES, max(2, round(total * RATE)))
    times = []
    for index in range(count):
        left = (index + 0.5) * total / count
        for start, end in spans:
            if left < end - start or (start, end) == spans[-1]:
                times.append(round(start + left, 6))
                break
            left -= end - start
    return tuple(times)


def put(file: Path, content: bytes) -> None:
    """A file appears whole or not at all."""
    draft = unfinished(file)
    draft.write_bytes(content)
    draft.replace(file)
