"""Checkpoints to resume from, and the Hugging Face folder at the end.

    .checkpoints/step-000200/{state-000.safetensors, ..., rng-<rank>.safetensors, state.json}

1. All ranks write into a temporary folder; when all are done, rank 0 adds `state.json`, renames the folder and removes
   the one before. A checkpoint is therefore whole or absent, and the last good one is never gone. Rank 0 says where to
   write and what to read: over NFS, other machines may for a minute see a folder as it was.
2. A checkpoint that can't be written (a full disk) is given up on all ranks: the last good one stays, and the run goes
   on with a warning. What it would lose when killed is more than usual; what it has learned is not at stake.
3. Another number of ranks, ZeRO stage or offload reads it as well (see `state`). Data order needs no state: examples
   and rollouts are functions of seed and step. Video embeddings are found again by their keys.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longrl.config import LoraSettings
from longrl.models.adapter import WITHOUT_WEIGHTS
from longrl.models.base import Student
from longrl.models.lora import plain, save_adapter
from longrl.training.engine import Engine, anywhere
from longrl.training.rank import TrainingError
from longrl.warehouse.sharing import unfinished

WHOLE = LoraSettings()  # no LoRA
FORMS = {"hf": "merged", "adapter": "adapter"}  # what `lora.checkpoint` calls them


class Checkpoints:
    """The resumable state of one training run; `warn` gets a sentence for each checkpoint that could not be written."""

    def __init__(self, folder: Path, engine: Engine, warn: Callable[[str], None] = print):
        self.folder, self.engine, self.warn = folder / ".checkpoints", engine, warn
        self.failed = 0  # checkpoints that could not be written
        self.notes: dict[str, Any] = {}  # what the restored checkpoint was saved with

    def save(self, step: int, **notes: Any) -> bool:
        """Save after `step`, with notes (JSON values) that a resumed run needs; every rank calls it.

        Returns whether there is such a checkpoint now.
        """
        lead = self.engine.rank == 0
        temporary = self.folder / self._told(unfinished(Path("writing")).name)
        failure: Exception | None = None
        try:
            if lead:
                for leftover in self.folder.glob(".writing.*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                temporary.mkdir(parents=True)
        except OSError as error:
            failure = error
        dist.barrier()
        try:
            state = {"step": step, **self.engine.save(temporary), "notes": notes}
            save_file(rng_states(), temporary / f"rng-{self.engine.rank}.safetensors")
        except (OSError, SafetensorError) as error:
            failure = failure or error
        whole = not self._anywhere(failure)
        if whole and lead:
            try:
                self._publish(temporary, self.folder / f"step-{step:06d}", state)
            except OSError as error:
                failure = error
        whole = whole and not self._anywhere(failure)
        if not whole:
            self.failed += 1
            if failure:
                self.warn(f"the checkpoint of step {step} could not be written ({failure}); the last one stays")
            if lead:
                shutil.rmtree(temporary, ignore_errors=True)
        return whole

    def _anywhere(self, failure: Exception | None) -> bool:
        return anywhere(failure is not None, self.engine.device)

    @staticmethod
    def _told(by_rank_0: str) -> str:
        """What rank 0 says, on every rank."""
        words = [by_rank_0]
        dist.broadcast_object_list(words)
        return words[0]

    def _publish(self, temporary: Path, final: Path, state: dict[str, Any]) -> None:
        """Make the written files last, put the folder in its place, and remove older ones."""
        (temporary / "state.json").write_text(json.dumps(state))
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        older = self.found()
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for path in older:
            if path != final:
                shutil.rmtree(path)

    def restore(self) -> int:
        """Load the newest checkpoint; returns its step, 0 when there is none.

        Raises `TrainingError` when it is damaged.
        """
        newest = self._told(max((path.name for path in self.found()), default=""))
        if not newest:
            return 0
        folder = self.folder / newest
        state = json.loads((folder / "state.json").read_text())
        self.engine.load(folder, state["updates"], state["skipped"])
        if (path := folder / f"rng-{self.engine.rank}.safetensors").exists():  # else there were fewer ranks
            set_rng_states(load_file(path))
        self.notes = state["notes"]
        return int(state["step"])

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob("step-*/state.json"))


def rng_states() -> dict[str, Tensor]:
    """The states of torch's random generators on this rank."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else states


def set_rng_states(states: dict[str, Tensor]) -> None:
    """Put the generators back to these states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def export(engine: Engine, student: Student, source: Path, folder: Path, lora: LoraSettings = WHOLE) -> None:
    """Write `folder/hf`, an ordinary Hugging Face folder, `folder/adapter`, or both; every rank calls it.

    Tokenizer, processor and chat template are copied from `source`, the weights are those of now, LoRA's updates
    merged. Raises `TrainingError` when it can't be written.
    """
    writers: dict[str, Callable[[Path], None]] = {"hf": partial(write_model, student, source)}
    if lora.rank:
        writers["adapter"] = partial(save_adapter, student.model, source)
        writers = {name: write for name, write in writers.items() if lora.checkpoint in ("both", FORMS[name])}
    with engine.whole():
        for name, write in writers.items() if engine.rank == 0 else ():
            temporary, final = folder / f".{name}-writing", folder / name
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                write(temporary)
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
            except (OSError, SafetensorError) as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise TrainingError(
                    f"cannot write the trained model to {final}: {error}; free space and run again: "
                    "training goes on from its last checkpoint"
                ) from error
    dist.barrier()


def write_model(student: Student, source: Path, folder: Path) -> None:
    """Write the student's weights, adapters merged, and copy all else of a model folder from `source`."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*WITHOUT_WEIGHTS))
    with plain(student.model):
        student.save(folder)
