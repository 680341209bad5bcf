"""Encoded prompts on disk: a file each, read by training and evaluation in place of text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from longrl.diffusion.families.base import Conditioning

NEGATIVE = "negative"  # the file of the prompt to be guided away from


def rows_of(folder: Path, names: Sequence[str], device: str = "cpu") -> Conditioning:
    """The conditioning of these prompts, a row each; a prompt may be named several times."""
    loaded = {name: load_file(folder / f"{name}.safetensors") for name in dict.fromkeys(names)}
    keys = next(iter(loaded.values())).keys()
    return {key: torch.stack([loaded[name][key] for name in names]).to(device) for key in keys}
