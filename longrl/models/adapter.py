"""Where the model of a stage lies: in `hf/`, or, where the stage left an adapter alone, merged into the cache.

Loads torch only where there is something to merge.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from longrl.errors import LongrlError
from longrl.warehouse.artifacts import ArtifactRef, Warehouse

WITHOUT_WEIGHTS = ("*.safetensors*", "*.bin*", ".*")  # what of a model folder is not copied beside other weights


class AdapterError(LongrlError):
    """An adapter can't be merged; the message names it and what it lacks."""


def model_folder(ref: ArtifactRef, warehouse: Warehouse) -> Path:
    """The Hugging Face folder of an artifact of `model`, `pretrain`, `sft` or `rl`.

    An adapter alone (`lora.checkpoint=adapter`) is merged once, into the warehouse's cache. Raises `AdapterError` when
    the model it belongs to is gone.
    """
    adapter = Path(ref.path) / "adapter"
    if (Path(ref.path) / "hf").is_dir() or not adapter.is_dir():
        return ref.file("hf")
    folder = warehouse.cache("merged") / ref.digest
    if not folder.is_dir():
        merge(adapter, folder)
    return folder


def merge(adapter: Path, folder: Path) -> None:
    """Write the model that an adapter and its base make; `folder` is whole or absent."""
    base = Path(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"])
    if not (base / "config.json").is_file():
        raise AdapterError(
            f"{adapter} is an adapter of {base}, which is gone; run the stage that made it again, or write its new "
            "place into adapter_config.json (base_model_name_or_path)"
        )
    from safetensors import safe_open

    from longrl.models import families, lora

    with safe_open(adapter / lora.WEIGHTS, "pt") as file:
        dtype = file.get_tensor(next(iter(file.keys()))).dtype  # the one that it was trained in
    student = families.load(base, dtype)
    lora.load_adapter(student.model, adapter)
    temporary = Path(tempfile.mkdtemp(prefix=".merging-", dir=folder.parent))
    try:
        shutil.copytree(base, temporary, ignore=shutil.ignore_patterns(*WITHOUT_WEIGHTS), dirs_exist_ok=True)
        with lora.plain(student.model):
            student.save(temporary)
        if not folder.is_dir():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
