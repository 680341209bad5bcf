"""The rendered world of the tiny generators: coloured shapes on plain grounds, still or moving, and their prompts.

    a small red circle on a grey ground            a large blue square moving left on a dark ground

A prompt says colour, shape, size and ground (and a clip's direction); where the shape stands and its exact shade are
drawn at random, so a prompt has many pictures. `likeness` says how near a picture comes to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]

COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.7, 0.2),
    "blue": (0.15, 0.3, 0.85),
    "yellow": (0.9, 0.8, 0.15),
    "purple": (0.6, 0.2, 0.75),
    "cyan": (0.15, 0.75, 0.8),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 0.16, "large": 0.28}  # half the width, as a share of the picture's
GROUNDS = {"dark": 0.12, "grey": 0.5, "light": 0.88}
WAY = 0.35  # of the picture's width, over the whole clip
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class Scene:
    """What a prompt of this world says."""

    size: str
    colour: str
    shape: str
    ground: str
    direction: str = ""

    @property
    def prompt(self) -> str:
        moving = f" moving {self.direction}" if self.direction else ""
        return f"a {self.size} {self.colour} {self.shape}{moving} on a {self.ground} ground"


def scenes(moving: bool) -> list[Scene]:
    """Every scene there is; those of clips leave one ground out, for they have directions besides."""
    grounds = ("dark", "grey") if moving else tuple(GROUNDS)
    directions = tuple(DIRECTIONS) if moving else ("",)
    return [Scene(*parts) for parts in product(SIZES, COLOURS, SHAPES, grounds, directions)]


def read(prompt: str) -> Scene | None:
    """The scene a prompt tells of, or None for a prompt of another world.

    >>> read("a small red circle on a grey ground")
    Scene(size='small', colour='red', shape='circle', ground='grey', direction='')
    """
    words = prompt.split()
    found = [next((word for word in words if word in known), "") for known in (SIZES, COLOURS, SHAPES, GROUNDS)]
    direction = next((word for word in words if word in DIRECTIONS), "")
    size, colour, shape, ground = found
    return Scene(size, colour, shape, ground, direction) if all(found) else None


def render(scene: Scene, frames: int, height: int, width: int, generator: np.random.Generator) -> Pixels:
    """A picture or clip of a scene: (F, H, W, 3) in 0..1, edges softened over a pixel."""
    half = SIZES[scene.size] * generator.uniform(0.9, 1.1)
    ground = np.clip(GROUNDS[scene.ground] + generator.uniform(-0.06, 0.06), 0, 1)
    colour = np.clip(np.array(COLOURS[scene.colour]) + generator.uniform(-0.08, 0.08, 3), 0, 1)
    x, y = generator.uniform(half + 0.05, 0.95 - half, 2)
    way = WAY * generator.uniform(0.8, 1.2)
    dx, dy = DIRECTIONS.get(scene.direction, (0.0, 0.0))
    if dx or dy:  # so that the way stays in the picture
        x = np.clip(x, half + 0.02 + way * max(-dx, 0), 0.98 - half - way * max(dx, 0))
        y = np.clip(y, half + 0.02 + way * max(-dy, 0), 0.98 - half - way * max(dy, 0))
    masks = np.stack(
        [
            covered(scene.shape, x + dx * moved, y + dy * moved, half, height, width)
            for moved in way * np.arange(frames) / max(frames - 1, 1)
        ]
    )[..., None]
    return (ground * (1 - masks) + colour * masks).astype(np.float32)


def covered(shape: str, x: float, y: float, half: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """Share of each pixel (H, W) that a shape around (x, y) covers; lengths are shares of the picture's."""
    rows, columns = np.mgrid[0:height, 0:width]
    u, v = (columns + 0.5) / width - x, (rows + 0.5) / height - y
    return np.clip(0.5 - outside(shape, u, v, half) * max(height, width), 0, 1)


def outside(shape: str, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], half: float) -> npt.NDArray[np.float64]:
    """How far a point lies outside of a shape around 0 (negative inside), about exact at its edges."""
    if shape == "circle":
        return np.hypot(u, v) - half
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.88 * half
    slope = 2.0 / np.sqrt(5.0)  # a triangle twice as high as half its base
    return np.maximum(v - 0.9 * half, slope * (np.abs(u) - (v + 1.1 * half) / 2))


def likeness(pixels: Pixels, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """How near each picture or clip (F, H, W, 3) comes to a rendering of its prompt, wherever the shape stands.

    1 less its squared distance from the nearest rendering of middle size and shade, over what an empty ground has: 1 is
    that rendering, 0 the empty ground, and what is worse than empty is below, at least -1. A picture flooded with the
    shape's colour is worse than empty. 0 for prompts of another world.
    """
    values = np.zeros(len(pixels))
    for number, prompt in enumerate(prompts):
        if (scene := read(prompt)) is None:
            continue
        transform, energy, places = _template(scene, *pixels.shape[1:4])
        ground = GROUNDS[scene.ground]
        drawn = pixels[number].astype(np.float64) - ground
        shade = np.array(COLOURS[scene.colour]) - ground
        # The squared distance at all places at once: only the product of picture and shape depends on the place.
        overlap = np.fft.irfft2((np.fft.rfft2(drawn @ shade) * transform).sum(0), s=pixels.shape[2:4])
        full = energy * (shade @ shade)
        values[number] = max((2.0 * overlap[places].max() - (drawn**2).sum()) / full, -1.0)
    return values


@lru_cache(maxsize=512)
def _template(scene: Scene, frames: int, height: int, width: int) -> tuple[npt.NDArray[np.complex128], float, tuple]:
    """A scene's shape in the middle, transformed and conjugated; its energy; how far it may be moved, as indices."""
    half = SIZES[scene.size]
    dx, dy = DIRECTIONS.get(scene.direction, (0.0, 0.0))
    way = WAY * (np.arange(frames) / max(frames - 1, 1) - 0.5) if frames > 1 else np.zeros(1)
    masks = np.stack([covered(scene.shape, 0.5 + dx * w, 0.5 + dy * w, half, height, width) for w in way])
    reach = [
        int(max(0.5 - half - 0.02 - (WAY / 2 if along else 0.0), 0.0) * side)
        for along, side in ((dy, height), (dx, width))
    ]
    places = np.ix_(*(np.arange(-far, far + 1) for far in reach))
    return np.conj(np.fft.rfft2(masks)), float((masks**2).sum()), places
