"""Checkpoints to resume from, and the Hugging Face folder at the end.

    .checkpoints/step-000200/{engine/..., rng-<rank>.pt, state.json}

All ranks write into a temporary folder; when all are done, rank 0 adds `state.json`, renames the folder and removes the
one before. A checkpoint is therefore whole or absent, and the last good one is never gone. Data order needs no state:
examples are a function of seed and step.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longrl.models.qwen2_5_vl import Student
from longrl.training.engine import Engine


class Checkpoints:
    """The resumable state of one training run."""

    def __init__(self, folder: Path, engine: Engine):
        self.folder, self.engine = folder / ".checkpoints", engine
        self.notes: dict[str, Any] = {}  # what the restored checkpoint was saved with

    def save(self, step: int, **notes: Any) -> None:
        """Save after `step`, with notes (JSON values) that a resumed run needs; every rank calls it."""
        temporary = self.folder / ".writing"
        if self.engine.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier()
        self.engine.save(str(temporary))
        torch.save(torch.get_rng_state(), temporary / f"rng-{self.engine.rank}.pt")
        dist.barrier()
        if self.engine.rank == 0:
            fits = {"ranks": self.engine.ranks, "zero_stage": self.engine.settings.zero_stage}
            state = {"step": step, **fits, "notes": notes}
            with (temporary / "state.json").open("w") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            older = self.found()
            final = self.folder / f"step-{step:06d}"
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            for path in older:
                if path != final:
                    shutil.rmtree(path)
        dist.barrier()

    def restore(self) -> int:
        """Load the newest checkpoint that fits this run; returns its step, 0 when there is none."""
        for path in reversed(self.found()):
            state = json.loads((path / "state.json").read_text())
            if (state["ranks"], state["zero_stage"]) == (self.engine.ranks, self.engine.settings.zero_stage):
                self.engine.load(str(path))
                torch.set_rng_state(torch.load(path / f"rng-{self.engine.rank}.pt"))
                self.notes = state["notes"]
                return int(state["step"])
        return 0

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path.parent for path in self.folder.glob("step-*/state.json"))


def export(engine: Engine, student: Student, source: Path, folder: Path) -> None:
    """Write `folder/hf`, an ordinary Hugging Face folder; every rank calls it.

    Tokenizer, processor and chat template are copied from `source`, the weights are those of now.
    """
    with engine.whole():
        if engine.rank == 0:
            temporary, final = folder / ".hf-writing", folder / "hf"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(source, temporary, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin*", ".*"))
            student.model.save_pretrained(temporary)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
    dist.barrier()
