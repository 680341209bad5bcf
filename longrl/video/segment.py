"""Cutting a video's time into clips: fixed lengths, exact to the last frame, no crumbs at the end."""

from __future__ import annotations


def cut(duration: float, clip_seconds: float, minimum_tail: float) -> list[tuple[float, float]]:
    """Spans `(start, end)` in seconds that cover [0, duration) without gap or overlap.

    All clips are `clip_seconds` long but the last, which is whatever is left; when that is less than `minimum_tail` it
    joins the clip before. A video shorter than one clip is one clip.

    >>> cut(31.0, 10.0, 2.0)
    [(0.0, 10.0), (10.0, 20.0), (20.0, 31.0)]
    """
    if duration <= 0 or clip_seconds <= 0:
        raise ValueError(f"cannot cut {duration} s into clips of {clip_seconds} s")
    whole = int(duration / clip_seconds + 1e-9)
    if duration - whole * clip_seconds >= max(minimum_tail, 1e-6):
        whole += 1
    starts = [round(index * clip_seconds, 6) for index in range(max(whole, 1))]
    return list(zip(starts, [*starts[1:], duration], strict=True))
