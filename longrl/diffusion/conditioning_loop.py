"""The encoding process of `conditioning`: text encoders are loaded here, and end with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from longrl.config import GeneratorSettings
from longrl.diffusion.encoded import NEGATIVE
from longrl.diffusion.families import Family, family_of
from longrl.training.rank import Messages
from longrl.warehouse.artifacts import ArtifactRef

BATCH = 16  # prompts encoded together


def main(job: dict[str, Any], messages: Messages) -> None:
    """Encode what is not in the cache, then give every prompt its file in the artifact."""
    settings, folder, pipeline = GeneratorSettings.model_validate(job["settings"]), Path(job["folder"]), job["pipeline"]
    family = family_of(Path(pipeline))
    rows = ArtifactRef(**job["prompts"]).table()
    wanted = dict(zip(rows["prompt_id"], rows["prompt"], strict=True)) | {NEGATIVE: settings.negative}
    encoders = json.dumps([family.text_digest(Path(pipeline)), settings.prompt_tokens])
    cache = Path(job["cache"]) / hashlib.sha256(encoders.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    cached = {name: cache / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors" for name, text in wanted.items()}
    missing = {name: text for name, text in wanted.items() if not cached[name].exists()}
    if missing:
        encode(family, Path(pipeline), settings, missing, cached, messages)
    for name, path in cached.items():
        link(path, folder / f"{name}.safetensors")
    messages.send("facts", encoded=len(missing), found=len(cached) - len(missing))


def encode(
    family: Family,
    pipeline: Path,
    settings: GeneratorSettings,
    prompts: dict[str, str],
    files: dict[str, Path],
    messages: Messages,
) -> None:
    """Write the files of these prompts, each whole or not at all."""
    text = family.load_text(pipeline, "cuda" if torch.cuda.is_available() else "cpu")
    names = list(prompts)
    for start in range(0, len(names), BATCH):
        part = names[start : start + BATCH]
        with torch.no_grad():
            encoded = family.encode(text, [prompts[name] for name in part], settings)
        for row, name in enumerate(part):
            draft = files[name].with_name(f".{files[name].name}.{os.getpid()}")
            save_file({key: values[row].cpu().contiguous() for key, values in encoded.items()}, draft)
            draft.replace(files[name])
        messages.progress(start + len(part))
    cut = sum(family.cut(text, prompt, settings) for prompt in prompts.values())
    if cut:
        messages.warn(
            f"{cut} prompts are longer than generator.prompt_tokens ({settings.prompt_tokens}); encoders see their "
            "beginning only"
        )
    messages.send("facts", cut=cut)


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where that can't be."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
