"""The reward `brisque`: no-reference quality of a picture by BRISQUE (Mittal, Moorthy, Bovik, 2012).

The features and the support vector machine are those of the package `brisque`, which brings its model along; other
kept libraries download theirs. BRISQUE judges detail at a scale of some pixels, so small pictures are enlarged first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from longrl.diffusion.rewards.rules import Pixels
from longrl.errors import LongrlError

FRAMES = 2  # of a clip
LEAST = 128  # pixels of the shorter side


class QualityError(LongrlError):
    """The reward needs a package that is not installed."""


class Brisque:
    """1 for a natural picture, 0 and less for a spoilt one: 1 - score / 100."""

    def __init__(self) -> None:
        try:
            from brisque import BRISQUE
        except ImportError as error:
            raise QualityError(
                f"the reward brisque needs the package `brisque` ({error}): pip install brisque"
            ) from error
        self.judge = BRISQUE(url=False)

    def __call__(self, pixels: Pixels, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
        chosen = np.linspace(0, pixels.shape[1] - 1, min(FRAMES, pixels.shape[1])).round().astype(int)
        return np.array([np.mean([self.quality(frame) for frame in clip[chosen]]) for clip in pixels])

    def quality(self, frame: npt.NDArray[np.float32]) -> float:
        """Of one frame (H, W, 3) in 0..1."""
        from PIL import Image

        picture = Image.fromarray((frame * 255).round().astype(np.uint8))
        if (factor := LEAST / min(picture.size)) > 1:
            picture = picture.resize([round(side * factor) for side in picture.size], Image.Resampling.BICUBIC)
        score = float(self.judge.score(np.asarray(picture)))
        return 1.0 - score / 100.0
