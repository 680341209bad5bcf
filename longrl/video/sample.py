"""The one frame sampler: which moments of a video are looked at, and at what size.

A plan is data. The teacher, SFT, rollouts and evaluation all make theirs here, so its digest in a log says exactly
which pictures a model saw. Times, not frame numbers, so that a phone video of variable rate is sampled evenly.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

PIXELS = 2  # counts up when the decoder or the scaling changes, so that caches never mix the two
TEMPORAL_PATCH = 2  # frames that Qwen2.5-VL merges into one grid step


@dataclass(frozen=True)
class FramePlan:
    """Frames of one video: `times` in seconds from its first frame (ascending), `height` and `width` in pixels."""

    times: tuple[float, ...]
    height: int
    width: int

    def __post_init__(self):
        if not self.times or min(self.height, self.width) < 1:
            raise ValueError(f"a frame plan needs times and a size, got {len(self.times)} times, {self.size_text}")
        if list(self.times) != sorted(self.times) or self.times[0] < 0:
            raise ValueError(f"the times of a frame plan must ascend from 0 or later, got {self.times[:8]}…")

    @cached_property
    def digest(self) -> str:
        """16 hex digits of sha256 over the plan's JSON, and over how pictures are made of it."""
        return hashlib.sha256(json.dumps([PIXELS, asdict(self)], sort_keys=True).encode()).hexdigest()[:16]

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
    duration: float, budget: int, height: int, width: int, start: float = 0.0, end: float | None = None
) -> FramePlan:
    """The centres of `budget` equal spans of [start, end), `end` being the video's `duration` (seconds) by default.

    Centres, because a film's first frame is often black and its last is past the last clip. Raises `ValueError` when
    the span is empty or lies outside the video.

    >>> plan_frames(8.0, 4, 56, 56).times
    (1.0, 3.0, 5.0, 7.0)
    """
    end = duration if end is None else end
    if budget < 1 or not 0 <= start < end or end > duration + 1e-6:
        raise ValueError(f"cannot take {budget} frames from {start}–{end} s of a video of {duration} s")
    step = (end - start) / budget
    return FramePlan(tuple(round(start + (index + 0.5) * step, 6) for index in range(budget)), height, width)


def fit(width: int, height: int, longer_side: int) -> tuple[int, int]:
    """(height, width) of a frame shrunk so that its longer side is `longer_side` pixels; sizes are even.

    >>> fit(768, 432, 112)
    (64, 112)
    """
    scale = longer_side / max(width, height)
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)
