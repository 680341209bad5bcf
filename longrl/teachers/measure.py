"""Measuring what any clip looks like: light, colours, how much moves, where and which way, and cuts.

Every figure is one a person could check by looking. Motion is judged from blocks that are found again a little
elsewhere in the next frame (exhaustive block matching, as in MPEG encoders), not from optical flow of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

PARTS = ("upper left", "top", "upper right", "left", "middle", "right", "lower left", "bottom", "lower right")
HALVES = ("upper half", "lower half", "left half", "right half")
DIRECTIONS = ("left", "right", "up", "down")
COLOURS = ("black", "gray", "white", "red", "orange", "brown", "yellow", "green", "cyan", "blue", "purple", "pink")

MOVED = 14  # grey levels (of 255) by which a moving pixel changes between frames
STANDS = 5  # so many repeated frames mean that the picture stands still; fewer, that the file has few frames a second
CUT = 0.4  # share of the colour histogram that changes at a cut
WIDE = 56  # pixels, the longer side at which motion is searched
BLOCK = 8  # pixels, side of a block
REACH = 6  # pixels, longest displacement searched between two frames
ONE_WAY = 0.75  # share of all movement that must go one way for it to be the direction
ENOUGH = 12.0  # pixels that blocks must have travelled in all before a direction is named


@dataclass(frozen=True)
class Scenery:
    """Measurements of a clip. Shares are per cent; quarters are of the clip's time; times are seconds."""

    brightness: float  # 0 black, 100 white
    brightness_quarters: tuple[float, ...]
    halves: dict[str, float]  # brightness of each half of the picture
    colours: dict[str, float]  # share of the picture, largest first, at least 5
    motion: float  # share of the picture that changes from one frame to the next, on average, cuts left out
    motion_quarters: tuple[float, ...]
    parts: dict[str, float]  # share of all motion that lies in each ninth of the picture
    directions: dict[str, float]  # share of all movement that goes each way
    direction: str  # left, right, up, down; "mixed" when none prevails; "" when nothing moves
    cuts: tuple[float, ...]  # when the picture changes at once
    doubtful_cuts: int  # changes that are neither clearly a cut nor clearly none

    def facts(self) -> dict[str, Any]:
        return {"kind": "scenery"} | asdict(self)


def measure(frames: np.ndarray, times: Sequence[float], start: float, end: float) -> Scenery:
    """Measure a clip, uint8 (T, H, W, 3) taken at ascending `times` up to `end`, seconds.

    Frames from before `start` only tell whether the clip begins with a cut.
    """
    before = sum(time < start for time in times)
    cuts, doubtful = _find_cuts(frames, times)
    frames, times = frames[before:], times[before:]
    grey = frames @ np.array([0.299, 0.587, 0.114], np.float32)  # (T, H, W), luma of BT.601
    quarter = np.clip((np.asarray(times) - start) / (end - start) * 4, 0, 3.999).astype(int)
    light = grey.mean((1, 2)) / 255 * 100
    pairs = _pairs(frames, {index - before for index, _ in cuts})
    level = grey - np.median(grey, axis=(1, 2), keepdims=True)  # a change of light is no motion
    moved = (
        np.abs(level[[b for _, b in pairs]] - level[[a for a, _ in pairs]]) > MOVED if pairs else np.zeros((0, 3, 3))
    )
    amount = moved.mean((1, 2)) * 100 if pairs else np.zeros(0)
    when = quarter[[b for _, b in pairs]] if pairs else np.zeros(0, int)
    directions = _directions(level, pairs)
    total = sum(directions.values())
    best = max(directions, key=lambda way: directions[way])
    share = {way: round(value / total * 100, 1) if total else 0.0 for way, value in directions.items()}
    return Scenery(
        brightness=round(float(light.mean()), 1),
        brightness_quarters=_by_quarter(light, quarter),
        halves=_halves(grey.mean(0) / 255 * 100),
        colours=_colours(frames),
        motion=round(float(amount.mean()), 2) if len(amount) else 0.0,
        motion_quarters=_by_quarter(amount, when),
        parts=_parts(moved),
        directions=share,
        direction="" if total < ENOUGH else best if share[best] >= ONE_WAY * 100 else "mixed",
        cuts=tuple(time for _, time in cuts),
        doubtful_cuts=doubtful,
    )


def _by_quarter(values: np.ndarray, quarter: np.ndarray) -> tuple[float, ...]:
    """Mean of each quarter; empty when a quarter has no value."""
    if len(set(quarter.tolist())) < 4:
        return ()
    return tuple(round(float(values[quarter == index].mean()), 2) for index in range(4))


def _halves(picture: np.ndarray) -> dict[str, float]:
    """Brightness of the halves of a mean picture, float (H, W)."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    cutouts = (picture[:height], picture[-height:], picture[:, :width], picture[:, -width:])
    return {name: round(float(part.mean()), 1) for name, part in zip(HALVES, cutouts, strict=True)}


def _colours(frames: np.ndarray) -> dict[str, float]:
    """Named colours by hue, saturation and value, from at most 8 frames at a quarter of the pixels."""
    few = frames[np.linspace(0, len(frames) - 1, min(8, len(frames))).round().astype(int), ::2, ::2]
    rgb = few.reshape(-1, 3).astype(np.float32) / 255
    value, low = rgb.max(1), rgb.min(1)
    chroma = value - low
    saturation = np.where(value > 0, chroma / np.maximum(value, 1e-6), 0)
    r, g, b = rgb.T
    safe = np.maximum(chroma, 1e-6)
    hue = np.select([value == r, value == g], [(g - b) / safe % 6, (b - r) / safe + 2], (r - g) / safe + 4) * 60
    plain = (saturation < 0.16) | (chroma < 0.07)
    name = np.select(
        [value < 0.17, plain & (value > 0.86), plain, hue < 14, (hue < 46) & (value < 0.55), hue < 46, hue < 68,
         hue < 165, hue < 196, hue < 258, hue < 292, hue < 342],
        [0, 2, 1, 3, 5, 4, 6, 7, 8, 9, 10, 11], 3,
    )  # fmt: skip
    shares = np.bincount(name, minlength=len(COLOURS)) / len(name) * 100
    order = np.argsort(-shares, kind="stable")
    return {COLOURS[index]: round(float(shares[index]), 1) for index in order if shares[index] >= 5}


def _find_cuts(frames: np.ndarray, times: Sequence[float]) -> tuple[list[tuple[int, float]], int]:
    """`[(index of the first frame after the cut, its time between the frames)]`, and how many changes are doubtful.

    At a cut the colour histogram (4 x 4 x 4) changes at once, and twice as much as just before and after.
    """
    bins = (frames >> 6).astype(np.int64) @ np.array([16, 4, 1]) + 64 * np.arange(len(frames))[:, None, None]
    histograms = np.bincount(bins.ravel(), minlength=64 * len(frames)).reshape(len(frames), 64) / bins[0].size
    change = np.abs(np.diff(histograms, axis=0)).sum(1) / 2
    around = np.pad(change, 1)
    neighbours = np.maximum(around[:-2], around[2:])
    sudden = (change > CUT) & (change > 2 * neighbours)
    doubtful = int(((change > CUT / 2) & ~sudden).sum())
    return [(int(i) + 1, round((times[i] + times[i + 1]) / 2, 2)) for i in np.nonzero(sudden)[0]], doubtful


def _pairs(frames: np.ndarray, first_after_cut: set[int]) -> list[tuple[int, int]]:
    """Neighbouring different frames of one shot; a file of low rate shows the same frame at several times."""
    same = [False] + [bool(np.array_equal(a, b)) for a, b in pairwise(frames)]
    pairs = []
    for repeated, run in groupby(range(1, len(frames)), key=lambda index: same[index]):
        indices = list(run)
        if not repeated or len(indices) >= STANDS:
            pairs += [(index - 1, index) for index in indices if index not in first_after_cut]
    return pairs


def _parts(moved: np.ndarray) -> dict[str, float]:
    """Share of the moved pixels, bool (pairs, H, W), in each ninth of the picture, in per cent."""
    heat = moved.sum(0) if len(moved) else np.zeros((3, 3))
    rows = np.array_split(heat, 3, axis=0)
    sums = [float(part.sum()) for row in rows for part in np.array_split(row, 3, axis=1)]
    total = sum(sums)
    return {name: round(part / total * 100, 1) if total else 0.0 for name, part in zip(PARTS, sums, strict=True)}


def _directions(level: np.ndarray, pairs: list[tuple[int, int]]) -> dict[str, float]:
    """How much goes each way: displacement in pixels summed over blocks that are found again elsewhere.

    `level` is float (T, H, W). A block counts when it changed where it was and is matched at least twice as well at
    its displacement; one that is matched only at the search's edge has moved farther than can be told, and is left
    out.
    """
    found = dict.fromkeys(DIRECTIONS, 0.0)
    step = max(1, round(max(level.shape[1:]) / WIDE))
    small = _shrink(level, step)
    height, width = (side - (side - 2 * REACH) % BLOCK for side in small.shape[1:])
    if not pairs or min(height, width) < 2 * REACH + BLOCK:
        return found
    small = small[:, :height, :width]
    before = small[[a for a, _ in pairs], REACH : height - REACH, REACH : width - REACH]
    after = small[[b for _, b in pairs]]
    shifts = [(dy, dx) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)]
    errors = np.stack([
        _block_sums(np.abs(after[:, REACH + dy : height - REACH + dy, REACH + dx : width - REACH + dx] - before))
        for dy, dx in shifts
    ])  # fmt: skip  # (shifts, pairs, blocks down, blocks across)
    still = errors[shifts.index((0, 0))]
    best = errors.argmin(0)
    lowest = errors.min(0)
    dy, dx = (np.array([shift[axis] for shift in shifts])[best] for axis in (0, 1))
    moved = (still > 6 * BLOCK**2) & (lowest * 2 < still) & (np.maximum(abs(dy), abs(dx)) < REACH)
    for way, far in zip(DIRECTIONS, (-dx, dx, -dy, dy), strict=True):
        other = abs(dy) if way in ("left", "right") else abs(dx)
        found[way] = float(np.where(moved & (far > other), far, 0).sum())
    return found


def _shrink(pictures: np.ndarray, step: int) -> np.ndarray:
    """Means of step x step pixels of float (T, H, W)."""
    count, height, width = pictures.shape
    trimmed = pictures[:, : height - height % step, : width - width % step]
    return trimmed.reshape(count, height // step, step, width // step, step).mean((2, 4))


def _block_sums(pictures: np.ndarray) -> np.ndarray:
    count, height, width = pictures.shape
    return pictures.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK).sum((2, 4))
