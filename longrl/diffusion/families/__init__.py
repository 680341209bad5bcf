"""The kinds of generators that longrl can train, by name; a folder tells its own kind."""

from __future__ import annotations

import json
from pathlib import Path

from longrl.diffusion.families.base import Conditioning, Family, GeneratorError
from longrl.diffusion.families.flux import Flux
from longrl.diffusion.families.sd3 import SD3
from longrl.diffusion.families.wan import Wan

FAMILIES: dict[str, Family] = {family.name: family for family in (SD3(), Flux(), Wan())}


def family_of(folder: Path, setting: str = "generator.path") -> Family:
    """The family of a diffusers pipeline's folder.

    Raises `GeneratorError`, naming the `setting`, for a folder that is none or of a class that longrl can't train.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise GeneratorError(
            f"{setting}={folder} is no folder of a diffusers pipeline: there is no model_index.json; download one, for "
            "example with `hf download stabilityai/stable-diffusion-3.5-medium --local-dir <folder>`"
        )
    kind = json.loads(index.read_text()).get("_class_name")
    for family in FAMILIES.values():
        if family.pipeline == kind:
            missing = [part for part in ("transformer", "vae", "scheduler") if not (folder / part).is_dir()]
            if missing:
                raise GeneratorError(f"{setting}={folder} lacks {', '.join(missing)}; download the whole pipeline")
            return family
    known = ", ".join(family.pipeline for family in FAMILIES.values())
    raise GeneratorError(
        f"{setting}={folder} is a {kind}; longrl trains {known}. docs/generation.md tells how to add a family"
    )


__all__ = ["FAMILIES", "Conditioning", "Family", "GeneratorError", "family_of"]
