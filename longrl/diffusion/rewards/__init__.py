"""Rewards of pictures and clips: plain functions, weighed and added up.

    rl.rewards = {colour: 1.0, symmetry: 0.5, "clip:/models/clip-vit-l14": 2.0, "mine.py:calm": 0.2}

A reward is any `function(pixels, prompts) -> N numbers`, with pixels (N, F, H, W, 3), float32 in 0..1, F = 1 for
pictures. A value that isn't a finite number leaves its sample's group out of the update and is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longrl.config import SCORERS, GenerateRlSettings
from longrl.diffusion.rewards.rules import BUILT_IN, Pixels
from longrl.errors import LongrlError
from longrl.training import rewards as shared

Reward = Callable[[Pixels, Sequence[str]], Any]


class RewardError(LongrlError):
    """A reward can't be found or doesn't work; the message names it."""


@dataclass(frozen=True)
class Scores:
    """What N samples earned: each reward's values, and their weighted sum; NaN where one is no finite number."""

    parts: dict[str, npt.NDArray[np.float64]]
    total: npt.NDArray[np.float64]
    culprits: tuple[str, ...]  # rewards that returned something that is no finite number


class Rewards:
    """The rewards of a run. Raises `RewardError`, or `TeacherUnavailable` when the judge's server can't be used."""

    def __init__(self, settings: GenerateRlSettings, device: str = "cpu"):
        self.weights = dict(sorted(settings.rewards.items()))
        self.functions = {name: reward(name, settings, device) for name in self.weights}

    def __call__(self, pixels: Pixels, prompts: Sequence[str]) -> Scores:
        """Score all samples."""
        parts = {name: call(name, function, pixels, prompts) for name, function in self.functions.items()}
        culprits = tuple(name for name, values in parts.items() if not np.isfinite(values).all())
        total = sum((self.weights[name] * values for name, values in parts.items()), np.zeros(len(prompts)))
        return Scores(parts, np.where(np.isfinite(total), total, np.nan), culprits)


def reward(name: str, settings: GenerateRlSettings, device: str) -> Reward:
    """The function that a reward's name means."""
    kind, _, rest = name.partition(":")
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name == "brisque":
        from longrl.diffusion.rewards.quality import Brisque

        return Brisque()
    if name == "judge":
        from longrl.diffusion.rewards.judge import PictureJudge

        return PictureJudge(settings.server, settings.judge_question)
    if kind in SCORERS:
        from longrl.diffusion.rewards.scorers import scorer

        return scorer(kind, Path(rest).expanduser(), device)
    try:
        return shared.load(name)  # type: ignore[return-value]
    except shared.RewardError as error:
        raise RewardError(str(error)) from error


def call(name: str, function: Reward, pixels: Pixels, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """A reward's values (N,); raises `RewardError` when it fails or doesn't return N numbers."""
    try:
        found = function(pixels, prompts)
    except LongrlError:
        raise
    except Exception as error:  # whatever somebody's own code raises
        raise RewardError(
            f"reward {name} failed on {len(prompts)} samples, the first of {prompts[0][:80]!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise RewardError(f"reward {name} must return {len(prompts)} numbers, not {type(found).__name__}") from None
    if values.shape != (len(prompts),):
        raise RewardError(
            f"reward {name} must return one number for each of the {len(prompts)} samples, not an array of shape "
            f"{values.shape}"
        )
    return values


def code(settings: GenerateRlSettings) -> dict[str, str]:
    """Digests of what rewards depend on beside their names: one's own files, scorers' folders, the judge's words."""
    digests = {}
    own = {}
    for name, weight in settings.rewards.items():
        kind, _, rest = name.partition(":")
        if name == "judge":
            from longrl.diffusion.rewards.judge import WORDS

            digests[name] = hashlib.sha256(WORDS.encode()).hexdigest()
        elif kind in SCORERS:
            from longrl.diffusion.rewards.scorers import check_folder
            from longrl.models.student import fingerprint

            digests[name] = fingerprint(check_folder(kind, Path(rest).expanduser()))
        elif name not in (*BUILT_IN, "brisque"):
            own[name] = weight
    try:
        return digests | shared.code(own)
    except shared.RewardError as error:
        raise RewardError(str(error)) from error


def told(weights: Mapping[str, float]) -> str:
    """A mixture in words.

    >>> told({"colour": 1.0, "symmetry": -0.5})
    '1 colour - 0.5 symmetry'
    """
    words = ""
    for name, weight in weights.items():
        sign = "-" if weight < 0 else "+"
        words += f" {sign} {abs(weight):g} {name}" if words else f"{'-' if weight < 0 else ''}{abs(weight):g} {name}"
    return words
