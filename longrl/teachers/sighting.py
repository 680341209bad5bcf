"""Seeing in the world of the stories: which landmark stands in which corner, and which agent goes where, when.

The teacher knows what the world's things look like, as a person knows what a tree looks like, and nothing of any story.
Landmarks are found by comparing the clip's median picture with each landmark's drawing in each corner; agents are the
only things of their colours, so a patch of one is an agent, and where its last patches lie is where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from longrl.video.stories import AGENTS, CENTRES, HALF, PLACES, SIZE, draw_landmark

ENOUGH = 20  # frames of a clip that are looked at
LANDMARK_LIKENESS = 0.8  # share of a landmark's pixels that must have its colours
COLOUR_DISTANCE = 40  # largest channel difference of an agent's pixel from its colour
PATCH = (60, 5 * HALF**2)  # pixels of an agent's patch: at least (chroma blurs its edge), at most (a box has 4 HALF²)
COMPACT = 9.0  # largest standard deviation, in pixels, of a patch's pixels about its middle
STOP = 30.0  # pixels between where an agent stops and its corner's centre, at most


@dataclass(frozen=True)
class Visit:
    """An agent's errand: seconds when it was first and last seen, where it stopped, and what was heard meanwhile."""

    actor: str
    place: str
    corner: str
    start: float
    end: float
    sound: str = ""  # empty where nobody listened, or nothing that has a name was heard


@dataclass(frozen=True)
class SeenAgent:
    """An agent where it stopped: `box` is left, top, right, bottom as shares of the picture; seconds."""

    label: str
    box: tuple[float, float, float, float]
    time: float


@dataclass(frozen=True)
class Sighting:
    """A clip of a story: the landmarks by corner, the visits in the order of time, and where their agents stopped."""

    layout: dict[str, str]
    visits: tuple[Visit, ...]
    objects: tuple[SeenAgent, ...] = ()

    def facts(self) -> dict[str, Any]:
        objects = [asdict(seen) | {"box": list(seen.box)} for seen in self.objects]
        visits = [{k: v for k, v in asdict(visit).items() if v or k != "sound"} for visit in self.visits]
        return {"kind": "story", "layout": self.layout, "visits": visits, "objects": objects}


def see(frames: np.ndarray, times: Sequence[float]) -> Sighting | None:
    """What a clip, uint8 (T, H, W, 3) taken at `times` (seconds), shows of a story; None when it shows no story."""
    if frames.shape[1] != frames.shape[2] or len(frames) < 3:
        return None
    every = max(1, len(frames) // ENOUGH)
    frames, times = _to_size(frames[::every]), times[::every]
    layout = find_landmarks(_median(frames))
    if layout is None:
        return None
    patches = [(time, *patch) for time, patch in zip(times, find_agents(frames), strict=True) if patch]
    visits = []
    objects = []
    for actor, run in groupby(patches, key=lambda patch: patch[1]):
        seen = list(run)
        if len(seen) < 2:  # one glimpse is no errand
            continue
        last = np.array([patch[2:] for patch in seen[-3:]])
        x, y = np.median(last, axis=0)
        corner = min(CENTRES, key=lambda name: (CENTRES[name][0] - x) ** 2 + (CENTRES[name][1] - y) ** 2)
        if np.hypot(CENTRES[corner][0] - x, CENTRES[corner][1] - y) <= STOP and np.ptp(last, axis=0).max() <= STOP / 2:
            visits.append(Visit(actor, layout[corner], corner, round(seen[0][0], 2), round(seen[-1][0], 2)))
            objects.append(SeenAgent(actor, _box(x, y), round(seen[-1][0], 2)))
    return Sighting(layout, tuple(visits), tuple(objects))


def find_landmarks(picture: np.ndarray) -> dict[str, str] | None:
    """Corner → landmark of a picture, uint8 (112, 112, 3), with all four landmarks in it; otherwise None."""
    layout = {}
    for corner in CENTRES:
        likeness = {}
        for place in PLACES:
            mask, colours = _drawing(place, corner)
            likeness[place] = float((np.abs(picture[mask].astype(np.int16) - colours).max(-1) < 45).mean())
        layout[corner] = max(likeness, key=lambda place: likeness[place])
        if likeness[layout[corner]] < LANDMARK_LIKENESS:
            return None
    return layout if len(set(layout.values())) == len(PLACES) else None


def find_agents(frames: np.ndarray) -> list[tuple[str, float, float] | None]:
    """The agent in each frame, uint8 (T, 112, 112, 3), and its middle (x, y) in pixels; None where there is none."""
    named = _colour_names()[frames[..., 0] >> 3, frames[..., 1] >> 3, frames[..., 2] >> 3]
    found: list[tuple[str, float, float] | None] = [None] * len(frames)
    time, row, column = np.nonzero(named)
    colours = named[time, row, column]
    counts = np.bincount(time * 8 + colours, minlength=8 * len(frames)).reshape(len(frames), 8)
    for index, (colour, pixels) in enumerate(zip(counts.argmax(1).tolist(), counts.max(1).tolist(), strict=True)):
        if not PATCH[0] <= pixels <= PATCH[1]:
            continue
        patch = (time == index) & (colours == colour)
        y, x = row[patch], column[patch]
        if max(x.std(), y.std()) <= COMPACT:
            found[index] = list(AGENTS)[colour - 1], float(x.mean()), float(y.mean())
    return found


def _box(x: float, y: float) -> tuple[float, float, float, float]:
    """An agent's box about its middle (pixels), as shares of the picture."""
    left, top, right, bottom = (
        round(min(max(side / SIZE, 0.0), 1.0), 3) for side in (x - HALF, y - HALF, x + HALF, y + HALF)
    )
    return left, top, right, bottom


@cache
def _colour_names() -> np.ndarray:
    """Table uint8 (32, 32, 32): 1 + the number of the agent whose colour an RGB of 5 bits a channel is, or 0."""
    levels = np.arange(32) * 8 + 4
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)[..., None, :]
    distance = np.abs(rgb - np.array(list(AGENTS.values()))).max(-1)
    return np.where(distance.min(-1) <= COLOUR_DISTANCE, distance.argmin(-1) + 1, 0).astype(np.uint8)


@cache
def _drawing(place: str, corner: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a landmark's pixels are, bool (112, 112), and their colours, int16 (N, 3)."""
    picture = np.full((SIZE, SIZE, 3), (255, 0, 255), np.uint8)
    draw_landmark(picture, place, *CENTRES[corner])
    mask = (picture != (255, 0, 255)).any(-1)
    return mask, picture[mask].astype(np.int16)


def _median(frames: np.ndarray) -> np.ndarray:
    """The picture without what moves: the median of at most 9 frames, uint8 (H, W, 3)."""
    few = frames[np.linspace(0, len(frames) - 1, min(9, len(frames))).round().astype(int)]
    return np.partition(few, len(few) // 2, axis=0)[len(few) // 2]


def _to_size(frames: np.ndarray) -> np.ndarray:
    if frames.shape[1] == SIZE:
        return frames
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BOX)) for frame in frames])
