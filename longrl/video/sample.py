"""The one frame sampler: which moments of a video are looked at, at what size, and which span of its sound is heard.

A plan is data. The teacher, SFT, rollouts and evaluation all make theirs here, so its digest in a log says exactly
which pictures a model saw. Times, not frame numbers, so that a phone video of variable rate is sampled evenly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

PIXELS = 2  # counts up when the decoder or the scaling changes, so that caches never mix the two
SAMPLES = 1  # the same for the sound track
TEMPORAL_PATCH = 2  # frames that Qwen2.5-VL merges into one grid step


@dataclass(frozen=True)
class FramePlan:
    """What is seen and heard of one file.

    Frames at `times`, in seconds from the first one (ascending), `height` x `width` pixels; and of the sound track the
    span `audio`, (start, end) in seconds from the first frame. A plan of sound alone has no times and no size.
    """

    times: tuple[float, ...]
    height: int
    width: int
    audio: tuple[float, float] | None = None

    def __post_init__(self):
        if self.audio is not None and not 0 <= self.audio[0] < self.audio[1]:
            raise ValueError(f"a span of sound must begin at 0 or later and end after that, got {self.audio}")
        if self.audio is not None and not self.times and self.height == self.width == 0:
            return
        if not self.times or min(self.height, self.width) < 1:
            raise ValueError(f"a frame plan needs times and a size, got {len(self.times)} times, {self.size_text}")
        if list(self.times) != sorted(self.times) or self.times[0] < 0:
            raise ValueError(f"the times of a frame plan must ascend from 0 or later, got {self.times[:8]}…")

    @cached_property
    def digest(self) -> str:
        """16 hex digits of sha256 over the plan's JSON, and over how pictures and sound are made of it."""
        values = asdict(self)
        heard = [SAMPLES] if values["audio"] else []
        if not heard:
            del values["audio"]
        return hashlib.sha256(json.dumps([PIXELS, values, *heard], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def pictures(self) -> FramePlan:
        """The same without sound: what the frame cache keeps. Raises `ValueError` for a plan of sound alone."""
        return self if self.audio is None else FramePlan(self.times, self.height, self.width)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> FramePlan:
        """The plan whose `asdict` went through JSON."""
        audio = values.get("audio")
        return cls(tuple(values["times"]), values["height"], values["width"], None if audio is None else tuple(audio))

    @property
    def second_per_grid(self) -> float:
        """Seconds between grid steps: the mean spacing of the frames times the temporal patch.

        This is `second_per_grid_ts` of Qwen2.5-VL's M-RoPE (Qwen2.5-VL technical report, section 2.1.2).
        """
        spans = max(len(self.times) - 1, 1)
        return (self.times[-1] - self.times[0]) / spans * TEMPORAL_PATCH

    @property
    def size_text(self) -> str:
        return f"{self.width}x{self.height}"


def plan_frames(
    duration: float,
    budget: int,
    height: int,
    width: int,
    start: float = 0.0,
    end: float | None = None,
    audio: Literal["none", "beside", "alone"] = "none",
) -> FramePlan:
    """The centres of `budget` equal spans of [start, end), `end` being the video's `duration` (seconds) by default.

    Centres, because a film's first frame is often black and its last is past the last clip. With `audio` the span is
    heard too, `beside` the frames or `alone`. Raises `ValueError` when the span is empty or lies outside the video.

    >>> plan_frames(8.0, 4, 56, 56).times
    (1.0, 3.0, 5.0, 7.0)
    """
    end = duration if end is None else end
    if budget < 1 or not 0 <= start < end or end > duration + 1e-6:
        raise ValueError(f"cannot take {budget} frames from {start}–{end} s of a video of {duration} s")
    step = (end - start) / budget
    times = tuple(round(start + (index + 0.5) * step, 6) for index in range(budget))
    span = (round(start, 6), round(end, 6))
    if audio == "alone":
        return FramePlan((), 0, 0, span)
    return FramePlan(times, height, width, span if audio == "beside" else None)


def fit(width: int, height: int, longer_side: int) -> tuple[int, int]:
    """(height, width) of a frame shrunk so that its longer side is `longer_side` pixels; sizes are even.

    >>> fit(768, 432, 112)
    (64, 112)
    """
    scale = longer_side / max(width, height)
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)
