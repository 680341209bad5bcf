"""Who is evaluated: a student of the warehouse, any Hugging Face folder, or a model behind an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from longrl.config import BenchmarkSettings
from longrl.errors import LongrlError
from longrl.models.adapter import model_folder
from longrl.models.families import check_folder
from longrl.teachers.server import Server
from longrl.warehouse.artifacts import MANIFEST, ArtifactRef, Warehouse, digest_folder
from longrl.warehouse.versions import at_folder

ENDPOINT = "openai:"
STUDENTS = {"base": ("model", "pretrain"), "sft": ("sft",), "rl": ("rl",)}  # MODEL=... -> stages that make it


class CandidateError(LongrlError):
    """There is no such model; the message says what MODEL may be."""


@dataclass(frozen=True)
class Candidate:
    """A model as tables call it; `identity` is all that its answers depend on beside what it is asked."""

    name: str
    identity: str  # digest of the weights, or the endpoint's address and its model
    folder: Path | None  # Hugging Face folder; None is an endpoint
    knows_form: bool = False  # of an answer, without being told: it was trained here


def candidate(settings: BenchmarkSettings, warehouse: Warehouse) -> Candidate:
    """The model that `settings.model` names; raises `CandidateError`, or `StudentError` for a folder that is none."""
    name = settings.model
    if name.startswith(ENDPOINT):
        server = settings.server.model_copy(update={"model": name.removeprefix(ENDPOINT)})
        model = Server(server, "benchmark").model  # without a name the server's first
        return Candidate(model, f"{server.base_url} {model}", None)
    folder = Path(newest(name, warehouse).path) if name in STUDENTS else Path(name).expanduser()
    if not folder.is_dir():
        raise CandidateError(
            f"MODEL={name}: no such folder; name one of {', '.join(STUDENTS)} (the warehouse's newest), a Hugging Face "
            f"folder, or {ENDPOINT}<model> for an endpoint (benchmark.server.base_url)"
        )
    artifact = folder.parent if folder.name == "hf" else folder
    shown, knows_form = folder.resolve().name, False
    if (artifact / MANIFEST).is_file():
        ref = at_folder(artifact, [stage for stages in STUDENTS.values() for stage in stages], "student")
        folder, shown = model_folder(ref, warehouse), name if name in STUDENTS else f"{ref.stage}-{ref.key[:6]}"
        knows_form = "source" not in ref.facts()  # a model that was taken over was trained elsewhere
    return Candidate(shown, digest_folder(check_folder(folder, "MODEL")), folder, knows_form)


def newest(name: str, warehouse: Warehouse) -> ArtifactRef:
    """The newest artifact of the stages that make `base`, `sft` or `rl`."""
    found = [ref for stage in STUDENTS[name] if (ref := warehouse.latest(stage))]
    if not found:
        raise CandidateError(
            f"MODEL={name}: {warehouse.root} holds none yet; run `make train` first, or name a Hugging Face folder"
        )
    return max(found, key=lambda ref: (Path(ref.path) / MANIFEST).stat().st_mtime)
