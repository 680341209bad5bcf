"""Rewards that need no model: what can be measured of the pixels.

Each takes pixels (N, F, H, W, 3), float32 in 0..1 (pictures have one frame), and the N prompts, and returns N numbers,
from 0 to 1 unless said otherwise. Give a reward a negative weight to turn it round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from longrl.diffusion.world import likeness

Pixels = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
HUES = {  # directions of the colour plane in which a named colour lies, as RGB
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "purple": (1, 0, 1),
    "magenta": (1, 0, 1), "cyan": (0, 1, 1), "orange": (1, 0.5, 0), "pink": (1, 0.4, 0.7),
}  # fmt: skip
FULL = 0.5  # colourfulness at which a pixel counts fully in `colour`


def mean(values: npt.NDArray[np.floating]) -> Values:
    """A number a sample."""
    return values.reshape(len(values), -1).mean(1, dtype=np.float64)


def brightness(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Mean luma.

    >>> brightness(np.ones((1, 1, 2, 2, 3), np.float32), ["any"]).round(3).tolist()
    [1.0]
    """
    return mean(pixels @ LUMA)


def contrast(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Deviation of the luma within each frame, doubled: half black, half white is 1."""
    return mean(2.0 * (pixels @ LUMA).std((2, 3)))


def chroma(pixels: Pixels) -> Pixels:
    """What is left of a colour without its grey: each channel less the pixel's mean."""
    return pixels - pixels.mean(-1, keepdims=True)


def saturation(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Mean distance between a pixel's largest and smallest channel."""
    return mean(pixels.max(-1) - pixels.min(-1))


def colour(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """How much of the picture is in the colour that the prompt names; 0 where it names none.

    A pixel counts by how colourful it is, fully from `FULL` on, times how well its hue agrees: the cosine of both in
    the plane without grey, none below 0.5 (60 degrees off).

    >>> red = np.zeros((1, 1, 2, 2, 3), np.float32); red[..., 0] = 1
    >>> colour(red, ["a red ball"]).round(3).tolist(), colour(red, ["a green ball"]).round(3).tolist()
    ([1.0], [0.0])
    """
    values = np.zeros(len(pixels))
    for number, prompt in enumerate(prompts):
        named = next((HUES[word] for word in prompt.lower().replace(",", " ").split() if word in HUES), None)
        if named is None:
            continue
        wanted = chroma(np.array(named, np.float32))
        here = chroma(pixels[number])
        size = np.linalg.norm(here, axis=-1)
        cosine = here @ (wanted / np.linalg.norm(wanted)) / np.maximum(size, 1e-6)
        agreement = np.clip(2.0 * cosine - 1.0, 0, 1)
        values[number] = float((agreement * np.clip(size / FULL, 0, 1)).mean())
    return values


def symmetry(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """1 less the mean difference of the picture and its mirror image, left to right."""
    return 1.0 - mean(np.abs(pixels - pixels[:, :, :, ::-1]))


def sharpness(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Mean size of the luma's change from a pixel to its neighbours; seldom over 0.2."""
    luma = pixels @ LUMA
    return mean(np.abs(np.diff(luma, axis=2))) + mean(np.abs(np.diff(luma, axis=3)))


def motion(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Mean change of a pixel from frame to frame; 0 of a picture."""
    return mean(np.abs(np.diff(pixels, axis=1))) if pixels.shape[1] > 1 else np.zeros(len(pixels))


def consistency(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Temporal consistency: mean correlation of neighbouring frames' pixels; 1 of a picture or a still clip.

    >>> still = np.random.default_rng(0).random((1, 1, 4, 4, 3), np.float32).repeat(3, axis=1)
    >>> consistency(still, ["any"]).round(3).tolist()
    [1.0]
    """
    if pixels.shape[1] < 2:
        return np.ones(len(pixels))
    flat = pixels.reshape(*pixels.shape[:2], -1).astype(np.float64)
    flat = flat - flat.mean(-1, keepdims=True)
    norms = np.maximum(np.linalg.norm(flat, axis=-1), 1e-6)
    return ((flat[:, 1:] * flat[:, :-1]).sum(-1) / (norms[:, 1:] * norms[:, :-1])).mean(1)


def smoothness(pixels: Pixels, prompts: Sequence[str]) -> Values:
    """Motion smoothness: how well each frame is the middle of its neighbours, from 1 down.

    1 - mean |x_{f-1} - 2 x_f + x_{f+1}| / (mean |x_f - x_{f-1}| + 0.02): steady change scores high, flicker low. The
    measure follows the interpolation error behind VBench's motion smoothness (arXiv:2311.17982), with the
    mean of the neighbours in place of an interpolation network.
    """
    if pixels.shape[1] < 3:
        return np.ones(len(pixels))
    jerk = mean(np.abs(pixels[:, :-2] - 2 * pixels[:, 1:-1] + pixels[:, 2:]))
    return 1.0 - jerk / (motion(pixels, prompts) + 0.02)


BUILT_IN = {
    "brightness": brightness,
    "colour": colour,
    "consistency": consistency,
    "contrast": contrast,
    "motion": motion,
    "saturation": saturation,
    "scene": likeness,
    "sharpness": sharpness,
    "smoothness": smoothness,
    "symmetry": symmetry,
}
