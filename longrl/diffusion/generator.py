"""Stage `generator`: the generator before any training, as an ordinary diffusers folder.

With `settings.path` a pipeline's folder is taken over file by file (hard links where the file system allows); without
it a tiny one is built, its tokenizers trained on the training prompts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from longrl.config import GeneratorSettings
from longrl.models.student import copy_folder, fingerprint
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 1


def generator(settings: GeneratorSettings, prompts: ArtifactRef, warehouse: Warehouse, seed: int) -> ArtifactRef:
    """Build or take over the generator; the artifact holds `pipeline/`.

    Raises `GeneratorError` when `settings.path` is no folder of a pipeline that longrl trains, or when the sizes asked
    for are none that it draws.
    """
    from longrl.diffusion.families import family_of  # here: it loads torch

    if settings.path:
        source = Path(settings.path).expanduser()
        family_of(source).latent_shape(source, settings)

        def take(draft: Draft) -> None:
            copy_folder(source, draft.folder / "pipeline")
            draft.rows = 1
            draft.facts |= {"source": str(source), "family": family_of(source).name}

        return warehouse.produce("generator", VERSION, {}, {"folder": fingerprint(source)}, take)

    def build(draft: Draft) -> None:
        from longrl.diffusion.tiny import build_tiny

        folder = draft.folder / "pipeline"
        shutil.rmtree(folder, ignore_errors=True)
        texts = prompts.table().filter(pl.col("split") == "train")["prompt"].to_list()
        build_tiny(folder, settings, texts, seed)
        family_of(folder).latent_shape(folder, settings)
        draft.rows = 1
        draft.facts["family"] = settings.family

    return warehouse.produce("generator", VERSION, {"settings": settings, "seed": seed}, {"prompts": prompts}, build)
