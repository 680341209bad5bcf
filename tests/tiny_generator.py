"""Tiny generators for tests, of each family, built once a session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from longrl.config import GeneratorSettings
from longrl.diffusion import world
from longrl.diffusion.tiny import build_tiny

SIZES = {
    family: GeneratorSettings(
        family=family, height=16, width=16, frames=5 if family == "wan" else 1,
        layers=2, heads=2, head_width=12, text_width=16, vocabulary=300, prompt_tokens=16,
    )
    for family in ("sd3", "flux", "wan")
}  # fmt: skip


@cache
def prompts(family: str) -> list[str]:
    """The rendered world's prompts for a family."""
    return [scene.prompt for scene in world.scenes(family == "wan")]


def build(family: str, folder: Path) -> Path:
    """A random tiny pipeline as a diffusers folder."""
    build_tiny(folder, SIZES[family], prompts(family), seed=0)
    return folder
