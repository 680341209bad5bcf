"""Cutting a video's time into clips: at fixed lengths or at its cuts, exact to the last frame, without crumbs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Span = tuple[float, float]


def cut(duration: float, clip_seconds: float, minimum_tail: float) -> list[Span]:
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


def fit_scenes(cuts: Sequence[float], duration: float, shortest: float, longest: float) -> list[Span]:
    """Spans that cover [0, duration) and end at cuts, each `shortest` to `longest` seconds long.

    A scene shorter than `shortest` joins the one before (the first one the one after it), one longer than `longest` is
    split into equal parts. A video shorter than `shortest` is one clip. `longest` must be at least 2 x `shortest`.

    >>> fit_scenes([1.0, 4.0, 5.0], 30.0, 2.0, 10.0)
    [(0.0, 5.0), (5.0, 13.333333), (13.333333, 21.666667), (21.666667, 30.0)]
    """
    if duration <= 0 or longest < 2 * shortest:
        raise ValueError(f"cannot fit scenes of {shortest}-{longest} s into {duration} s")
    edges = [0.0]
    for edge in sorted(cuts):
        if shortest <= edge <= duration - shortest:
            if edge - edges[-1] >= shortest:
                edges.append(edge)
            elif len(edges) > 1:  # the scene before this cut is too short: it joins the one before it
                edges[-1] = edge
    edges.append(duration)
    spans: list[Span] = []
    for start, end in pairwise(edges):
        parts = max(1, math.ceil((end - start) / longest - 1e-6))
        inner = [round(start + (end - start) * part / parts, 6) for part in range(1, parts)]
        spans += pairwise([start, *inner, end])
    return spans
