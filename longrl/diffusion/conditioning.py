"""Stage `conditioning`: every prompt through the text encoders, once.

    <artifact>/<prompt_id>.safetensors        what the transformer takes of a prompt
    <artifact>/negative.safetensors           the same of `generator.negative`

Training and evaluation read these files; no text encoder is loaded for them. A prompt's file is kept in the cache
`prompts` of the warehouse under (text, encoders' bytes, tokens), so that a changed set encodes what is new. This is the
Prefect side: it imports no torch.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from longrl.config import GeneratorSettings
from longrl.progress import Progress
from longrl.training.launch import launch
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 1

log = logging.getLogger(__name__)


def conditioning(
    settings: GeneratorSettings, generator: ArtifactRef, prompts: ArtifactRef, warehouse: Warehouse
) -> ArtifactRef:
    """Encode all prompts and the negative one, in a process that then ends. A killed run keeps what was encoded."""

    def build(draft: Draft) -> None:
        job = {
            "settings": settings.model_dump(mode="json"),
            "pipeline": str(generator.file("pipeline")),
            "prompts": asdict(prompts),
            "cache": str(warehouse.cache("prompts")),
            "folder": str(draft.folder),
        }
        with Progress("conditioning", prompts.rows + 1) as progress:

            def listen(message: dict[str, Any]) -> None:
                kind = message.pop("kind")
                if kind == "progress":
                    progress.update(message["done"])
                elif kind == "facts":
                    draft.facts.update(message)
                elif kind == "warning":
                    log.warning(message["message"])

            launch("longrl.diffusion.conditioning_loop", job, 1, draft.folder, listen)
        draft.rows = prompts.rows

    chosen = {"prompt_tokens": settings.prompt_tokens, "negative": settings.negative}
    return warehouse.produce("conditioning", VERSION, chosen, {"generator": generator, "prompts": prompts}, build)
