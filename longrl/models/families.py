"""Which model families there are, what a folder of each must hold, and where their code is. Loads no torch by itself.

A family is one file with a `longrl.models.base.Student` and an entry here; `config.json` of a folder names it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrl.errors import LongrlError
from longrl.models.prompt import Kind

if TYPE_CHECKING:
    import torch

    from longrl.models.base import Student

VISION = ("preprocessor_config.json", "processor_config.json")  # one of these holds the sizes of patches


class StudentError(LongrlError):
    """The student cannot be built, taken over or loaded; the message names the folder and what it lacks."""


@dataclass(frozen=True)
class Family:
    """What is known of a family without loading it."""

    name: str  # as people call it
    student: str  # module:class
    kinds: tuple[Kind, ...]  # what a prompt may show
    processors: tuple[str, ...] = ()  # processor classes that fit; () needs none
    needed: tuple[tuple[str, ...], ...] = (("tokenizer.json",), VISION)  # files; one of each
    weights: tuple[str, ...] = ("",)  # folders in the folder that hold safetensors
    vllm: bool = True  # vLLM has an implementation that takes embeddings


SEEING: tuple[Kind, ...] = ("video", "image")
TEXT = (("tokenizer.json",),)
VILA_PARTS = ("llm", "vision_tower", "mm_projector")
VILA = Family(
    "VILA",
    "longrl.models.vila:VILA",
    SEEING,
    needed=(("llm/tokenizer.json",), ("vision_tower/preprocessor_config.json",), ("mm_projector/config.json",)),
    weights=VILA_PARTS,
)

FAMILIES: dict[str, Family] = {  # by `model_type` of config.json
    "qwen2_5_vl": Family("Qwen2.5-VL", "longrl.models.qwen2_5_vl:Qwen2_5_VL", SEEING, ("Qwen2_5_VLProcessor",)),
    "qwen2_vl": Family("Qwen2-VL", "longrl.models.qwen2_vl:Qwen2VL", SEEING, ("Qwen2VLProcessor",)),
    "qwen3_vl": Family("Qwen3-VL", "longrl.models.qwen3_vl:Qwen3VL", SEEING, ("Qwen3VLProcessor",)),
    "llava_onevision": Family(
        "LLaVA-OneVision", "longrl.models.llava_onevision:LlavaOnevision", SEEING, ("LlavaOnevisionProcessor",)
    ),
    "vila": VILA,
    "llava_llama": VILA,  # as NVlabs/VILA names it, whatever the language model
    "qwen2_5_omni": Family(
        "Qwen2.5-Omni",
        "longrl.models.qwen2_5_omni:Qwen2_5_Omni",
        ("video", "image", "audio"),
        ("Qwen2_5OmniProcessor",),
    ),
    "qwen2": Family("Qwen2 or Qwen2.5 (text)", "longrl.models.qwen_text:Qwen2", (), needed=TEXT),
    "qwen3": Family("Qwen3 (text)", "longrl.models.qwen_text:Qwen3", (), needed=TEXT),
}


def model_type(folder: str | Path, setting: str = "") -> str:
    """`model_type` of the folder's config.json, a key of `FAMILIES`.

    Raises `StudentError` when the folder is no model, or of no family that is known; `setting` is who named it.
    """
    path, told = Path(folder) / "config.json", f"{setting}={folder}" if setting else str(folder)
    if not path.is_file():
        raise StudentError(f"{told} is no Hugging Face model folder: config.json is missing")
    try:
        kind = json.loads(path.read_text()).get("model_type")
    except (json.JSONDecodeError, AttributeError) as error:
        raise StudentError(f"{told}: config.json can't be read ({error}); download it again") from error
    if kind not in FAMILIES:
        raise StudentError(
            f"{told} is a {kind!r} model; longrl trains {', '.join(FAMILIES)}. Name a folder of one of these, or add a "
            "family (docs/models.md)"
        )
    return kind


def family_class(folder: str | Path) -> type[Student]:
    """The student class of a folder's family, its module imported now. Raises `StudentError`."""
    return class_of(model_type(folder))


def class_of(name: str) -> type[Student]:
    """The student class of a family, named as in `FAMILIES`. Raises `StudentError`."""
    if name not in FAMILIES:
        raise StudentError(f"model.family={name}: there is no such family; there are {', '.join(FAMILIES)}")
    module, _, student = FAMILIES[name].student.partition(":")
    return getattr(import_module(module), student)


def load(folder: str | Path, dtype: torch.dtype | str = "float32", device: torch.device | str = "cpu") -> Student:
    """Load a model folder of any family in training mode, with shared-prefix attention in reach.

    Raises `StudentError` when the folder is no model, or of no family that is known.
    """
    return family_class(folder).load(folder, dtype, device)


def check_folder(folder: Path, setting: str = "model.path") -> Path:
    """Return the folder if it is a whole model of a known family; otherwise raises `StudentError`.

    Looks for missing files, missing shards of the weights and a processor of another model; `setting` is who named it.
    """
    family = FAMILIES[model_type(folder, setting)]
    told = f"{setting}={folder}"
    missing = [" or ".join(names) for names in family.needed if not any((folder / name).is_file() for name in names)]
    if missing:
        raise StudentError(f"{told} is no Hugging Face folder of a {family.name}: {', '.join(missing)} missing")
    for part in family.weights:
        check_weights(folder / part, f"{told}/{part}".rstrip("/"))
    check_processor(folder, family, told)
    return folder


def check_weights(folder: Path, told: str) -> None:
    """Raise `StudentError` unless all files of the weights are there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if missing := [name for name in wanted if not (folder / name).is_file()]:
            raise StudentError(
                f"{told} lacks {len(missing)} of the {len(wanted)} files that {index.name} names, among them "
                f"{missing[0]}; download the folder again (a download goes on where it stopped)"
            )
    elif not any(folder.glob("*.safetensors")):
        raise StudentError(f"{told} has no *.safetensors; download the weights too")


def check_processor(folder: Path, family: Family, told: str) -> None:
    """Raise `StudentError` when the folder's processor is another model's: its class or its patch sizes say so."""
    config = json.loads((folder / "config.json").read_text())
    vision = (config.get("thinker_config") or config).get("vision_config") or {}
    sizes = {
        "patch_size": "patch_size",
        "merge_size": "spatial_merge_size",
        "temporal_patch_size": "temporal_patch_size",
    }
    remedy = "copy the processor's files from the checkpoint that the weights came from"
    for path in sorted(folder.glob("*processor_config.json")) if family.processors else ():
        written = json.loads(path.read_text())
        named = written.get("processor_class")
        if named and named not in family.processors:
            raise StudentError(
                f"{told}: {path.name} is of a {named}, a {family.name} needs {' or '.join(family.processors)}; {remedy}"
            )
        for part in (written, written.get("image_processor") or {}, written.get("video_processor") or {}):
            for ours, theirs in sizes.items():
                if differ(part.get(ours), vision.get(theirs)):
                    raise StudentError(
                        f"{told}: {path.name} says {ours} {part[ours]}, config.json says {theirs} {vision[theirs]}; "
                        f"{remedy}"
                    )


def differ(one: Any, other: Any) -> bool:
    """Whether both are numbers, and not the same."""
    return isinstance(one, int) and isinstance(other, int) and one != other
