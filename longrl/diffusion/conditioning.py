"""Stage `conditioning`: every prompt through the text encoders, once.

    <artifact>/<prompt_id>.safetensors        what the transformer takes of a prompt
    <artifact>/negative.safetensors           the same of `generator.negative`

Training and evaluation read these files; no text encoder is loaded for them. A prompt's file is kept in the cache
`prompts` of the warehouse under (text, encoders' bytes, tokens), so that a changed set encodes what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrl.config import GeneratorSettings
from longrl.progress import Progress
from longrl.training.launch import launch
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

if TYPE_CHECKING:
    from longrl.diffusion.families import Conditioning
    from longrl.training.rank import Messages

VERSION = 1
BATCH = 16  # prompts encoded together
NEGATIVE = "negative"


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

            launch("longrl.diffusion.conditioning", job, 1, draft.folder, listen)
        draft.rows = prompts.rows

    chosen = {"prompt_tokens": settings.prompt_tokens, "negative": settings.negative}
    return warehouse.produce("conditioning", VERSION, chosen, {"generator": generator, "prompts": prompts}, build)


def main(job: dict[str, Any], messages: Messages) -> None:
    """The encoding process."""
    import torch
    from safetensors.torch import save_file

    from longrl.diffusion.families import family_of

    settings, folder = GeneratorSettings.model_validate(job["settings"]), Path(job["folder"])
    pipeline = Path(job["pipeline"])
    family = family_of(pipeline)
    rows = ArtifactRef(**job["prompts"]).table()
    wanted = dict(zip(rows["prompt_id"], rows["prompt"], strict=True)) | {NEGATIVE: settings.negative}
    digest = hashlib.sha256(json.dumps([family.text_digest(pipeline), settings.prompt_tokens]).encode()).hexdigest()
    cached = {
        name: Path(job["cache"]) / digest[:16] / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        for name, text in wanted.items()
    }
    missing = [name for name, path in cached.items() if not path.exists()]
    if missing:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        text = family.load_text(pipeline, device)
        for start in range(0, len(missing), BATCH):
            names = missing[start : start + BATCH]
            with torch.no_grad():
                encoded = family.encode(text, [wanted[name] for name in names], settings)
            for row, name in enumerate(names):
                own = {key: values[row].cpu().contiguous() for key, values in encoded.items()}
                cached[name].parent.mkdir(parents=True, exist_ok=True)
                draft = cached[name].with_name(f".{cached[name].name}.{os.getpid()}")
                save_file(own, draft)
                draft.replace(cached[name])
            messages.progress(start + len(names))
        cut = sum(family.cut(text, wanted[name], settings) for name in missing)
        if cut:
            messages.warn(
                f"{cut} prompts are longer than generator.prompt_tokens ({settings.prompt_tokens}); encoders see their "
                "beginning only"
            )
        messages.send("facts", cut=cut)
    for name, path in cached.items():
        link(path, folder / f"{name}.safetensors")
    messages.send("facts", encoded=len(missing), found=len(cached) - len(missing))


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where that can't be."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def rows_of(folder: Path, names: Sequence[str], device: str = "cpu") -> Conditioning:
    """The conditioning of these prompts, a row each; a prompt may be named several times."""
    import torch
    from safetensors.torch import load_file

    loaded = {name: load_file(folder / f"{name}.safetensors") for name in dict.fromkeys(names)}
    keys = next(iter(loaded.values())).keys()
    return {key: torch.stack([loaded[name][key] for name in names]).to(device) for key in keys}
