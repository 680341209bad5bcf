"""What the student sees of a question's media: a span of a video at some frames, or an image at some size.

A question shows the video its `video_id` names, or what its `media` lists: images, or nothing at all (text alone).
Where `media` is there, `video_id` names the group of media, so that questions on the same pictures belong together and
questions on text each stand alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from longrl.config import FrameSettings
from longrl.video.sample import FramePlan, plan_frames


class View(NamedTuple):
    """A medium as the student sees it; an image is a plan of one frame."""

    video_id: str  # sha256 of the file's bytes
    path: str | Path
    plan: FramePlan
    kind: Literal["video", "image"] = "video"


def views_of(
    row: Mapping[str, Any], videos: Mapping[str, Mapping[str, Any]], frames: FrameSettings, budget: int
) -> tuple[View, ...]:
    """What a row of DATASET shows with this frame budget; `videos` are rows of VIDEOS by id."""
    if row.get("media") is not None:
        return tuple(image_view(each, frames) for each in row["media"])
    video = videos[row["video_id"]]
    return (View(row["video_id"], video["path"], plan(video["duration"], budget, frames)),)


def image_view(medium: Mapping[str, Any], frames: FrameSettings) -> View:
    """An image of a row's `media`, shrunk where it is larger than the settings allow."""
    height, width = image_size(medium["height"], medium["width"], frames.image_pixels, frames.image_multiple)
    return View(medium["media_id"], medium["path"], FramePlan((0.0,), height, width), "image")


def image_size(height: int, width: int, pixels: int, multiple: int) -> tuple[int, int]:
    """Height and width at which an image is seen: multiples of `multiple`, at most so many pixels, about as it is.

    >>> image_size(480, 640, 50_000, 28), image_size(50, 60, 802_816, 28)
    ((196, 252), (56, 56))
    """
    shrink = min(1.0, math.sqrt(pixels / (height * width)))
    sides = [max(multiple, round(side * shrink / multiple) * multiple) for side in (height, width)]
    while math.prod(sides) > pixels and max(sides) > multiple:
        sides[sides.index(max(sides))] -= multiple
    return sides[0], sides[1]


@lru_cache(maxsize=65536)
def plan(
    duration: float, budget: int, frames: FrameSettings, start: float = 0.0, end: float | None = None
) -> FramePlan:
    """`plan_frames` at the student's frame size, remembered with its digest."""
    return plan_frames(duration, budget, frames.height, frames.width, start, end, frames.audio)


def digest_of(views: Sequence[View]) -> str:
    """What was seen, in one name: the plan's digest for a single medium, a hash of all for others."""
    if len(views) == 1:
        return views[0].plan.digest
    told = repr([(view.video_id, view.plan.digest, view.kind) for view in views])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
