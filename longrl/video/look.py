"""Looking at a whole video, at a modest size and rate, for its cuts and for how much moves in it.

Frames come from the one decode room, so a frame that can't be decoded is an error here too. The cuts are judged by
PySceneDetect. This module is light, because every worker process imports it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from longrl.config import SegmentSettings
from longrl.video.crew import beat
from longrl.video.decode import read_frames
from longrl.video.sample import FramePlan, fit
from longrl.video.segment import Span, cut, fit_scenes

CHUNK = 1500  # frames in memory at once


@dataclass(frozen=True)
class Job:
    """One video to be looked at."""

    video_id: str
    path: str
    duration: float
    width: int
    height: int
    settings: SegmentSettings


def look_at(job: Job) -> dict[str, Any]:
    """`spans` and, unless it is off, the `motion` of each, from one pass over the video; raises `DecodeError`."""
    settings = job.settings
    rate = settings.frames_per_second
    finder = CutFinder(settings.detector, settings.threshold, rate) if settings.mode == "scene" else None
    changes: list[np.ndarray] = []
    previous: np.ndarray | None = None
    for frames in look(job.path, job.duration, rate, *fit(job.width, job.height, settings.size)):
        if finder is not None:
            finder.take(frames)
        if settings.motion != "off":
            changes.append(changes_between(frames, previous))
            previous = frames[-1]
    found: dict[str, Any] = {"spans": spans_of(job, finder.finish() if finder else [])}
    if settings.motion != "off":
        found["motion"] = motion_of(found["spans"], np.concatenate(changes), rate)
    return found


def spans_of(job: Job, cuts: list[float]) -> list[Span]:
    settings = job.settings
    if settings.mode == "fixed":
        return cut(job.duration, settings.clip_seconds, settings.minimum_tail)
    return fit_scenes(cuts, job.duration, settings.shortest, settings.longest)


def look(path: str, duration: float, frames_per_second: float, height: int, width: int) -> Iterator[np.ndarray]:
    """Evenly spaced frames of a whole video, uint8 (n, height, width, 3) at a time; frame i is shown at i / rate.

    Raises `DecodeError`.
    """
    count = max(1, math.ceil(duration * frames_per_second - 1e-6))
    for first in range(0, count, CHUNK):
        times = tuple(round(i / frames_per_second, 6) for i in range(first, min(first + CHUNK, count)))
        yield read_frames(path, FramePlan(times, height, width))
        beat()


class CutFinder:
    """PySceneDetect's detector, fed with frames at a constant rate."""

    def __init__(self, detector: str, threshold: float | None, frames_per_second: float):
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        self.rate, self.seen, self.cuts = frames_per_second, 0, list[float]()
        # What is too short is merged by `fit_scenes`; the detector's own minimum would drop cuts before that.
        if detector == "adaptive":
            chosen = {} if threshold is None else {"adaptive_threshold": threshold}
            self.detector: ContentDetector = AdaptiveDetector(min_scene_len=0, **chosen)
        else:
            chosen = {} if threshold is None else {"threshold": threshold}
            self.detector = ContentDetector(min_scene_len=0, **chosen)

    def take(self, frames: np.ndarray) -> None:
        """The next frames, uint8 (n, H, W, 3) RGB."""
        from scenedetect import FrameTimecode

        for frame in frames:
            now = FrameTimecode(self.seen, fps=self.rate)
            self._keep(self.detector.process_frame(now, np.ascontiguousarray(frame[..., ::-1])))
            self.seen += 1

    def finish(self) -> list[float]:
        """Cuts in seconds, ascending: the time of the first frame looked at that shows the new scene."""
        from scenedetect import FrameTimecode

        self._keep(self.detector.post_process(FrameTimecode(max(self.seen - 1, 0), fps=self.rate)))
        return sorted(self.cuts)

    def _keep(self, found) -> None:
        self.cuts += [round(cut.frame_num / self.rate, 6) for cut in found]


def motion_of(spans: Sequence[Span], changes: np.ndarray, frames_per_second: float) -> list[float]:
    """Mean absolute change of a pixel per second in each span, 0-255.

    `changes[i]` is the mean absolute difference of frames i and i + 1. A span counts the changes between frames that
    both lie in it; one with fewer than two frames has no motion. Above 255 (flicker) it is 255.

    >>> motion_of([(0.0, 1.0), (1.0, 2.0)], np.array([2.0, 50.0, 4.0]), 2.0)
    [4.0, 8.0]
    """
    scores = []
    for start, end in spans:
        first = math.ceil(start * frames_per_second - 1e-6)
        last = math.ceil(end * frames_per_second - 1e-6) - 1  # the last frame shown before the end
        inside = changes[first:last]
        scores.append(round(min(float(inside.mean()) * frames_per_second, 255.0), 3) if len(inside) else 0.0)
    return scores


def changes_between(frames: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """Mean absolute difference (0-255) of each frame, uint8 (n, H, W, 3), to the one before; `previous` comes first."""
    row = frames if previous is None else np.concatenate([previous[None], frames])
    return np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(row)])
