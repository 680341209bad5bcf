"""The SFT stage: captions and chains of thought, taught on data-parallel ranks.

This is the Prefect side: it starts `sft_loop` on the ranks, shows its progress and keeps the result. It imports no
torch.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from longrl.config import UNTRACKED, EngineSettings, FrameSettings, SftSettings, TrackingSettings
from longrl.models.adapter import model_folder
from longrl.progress import Progress
from longrl.training import nodes
from longrl.training.launch import launch
from longrl.training.tracking import Tracking
from longrl.training.tracking import tracking as follow
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 3

log = logging.getLogger(__name__)


def sft(
    settings: SftSettings,
    frames: FrameSettings,
    model: ArtifactRef,
    dataset: ArtifactRef,
    captions: ArtifactRef,
    videos: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
    stage: Literal["pretrain", "sft"] = "sft",
    tracking: TrackingSettings = UNTRACKED,
) -> ArtifactRef:
    """Fine-tune `model` on the split "sft": `hf/` holds the result, `metrics.jsonl` a line per step; with LoRA
    `adapter/` holds what was trained, in peft's format (`lora.checkpoint` says which of the two is written).

    The stage "pretrain" is the same on text alone: it is to a student that was built from nothing what its makers'
    pretraining is to a real one. Its result answers in words and in the right form, and has never seen a video: the
    base of all comparisons.

    Videos that can't be decoded are rejects. Raises `TrainingError` with the rank's own words or the end of its log;
    run again, the stage goes on from its last checkpoint.
    """

    def build(draft: Draft) -> None:
        tables = {"dataset": dataset, "captions": captions, "videos": videos}
        job = {
            "settings": settings.model_dump(mode="json"),
            "frames": frames.model_dump(mode="json"),
            "tables": {name: asdict(ref) for name, ref in tables.items()},
            "model": str(model_folder(model, warehouse)),
            "folder": str(draft.folder),
            "frame_cache": str(warehouse.cache("frames")),
            "embedding_cache": str(warehouse.cache("embeddings")),
            "seed": seed,
        }
        steps = sum(phase.steps for phase in settings.phases)
        run_ranks("longrl.training.sft_loop", job, settings, draft, stage, steps, tracking)

    inputs = {"model": model, "dataset": dataset, "captions": captions, "videos": videos}
    return warehouse.produce(stage, VERSION, {"settings": settings, "frames": frames, "seed": seed}, inputs, build)


def run_ranks(
    module: str,
    job: dict[str, Any],
    settings: EngineSettings,
    draft: Draft,
    name: str,
    steps: int,
    tracking: TrackingSettings = UNTRACKED,
) -> None:
    """Run a training loop to its end, showing its steps; its rejects and facts go into the draft."""
    with Progress(name, steps) as progress, follow(tracking, draft, job["settings"]) as tracked:
        listen = listener(draft, progress, tracked)
        if settings.machines == 1:
            launch(module, job, settings.ranks, draft.folder, listen)
        else:
            nodes.launch(module, job, settings.ranks, settings.nodes, draft.folder, listen)
    draft.rows = steps
    shutil.rmtree(draft.folder / ".checkpoints", ignore_errors=True)


def listener(draft: Draft, progress: Progress, tracked: Tracking) -> Callable[[dict[str, Any]], None]:
    """What to do with the ranks' messages."""

    def listen(message: dict[str, Any]) -> None:
        match message.pop("kind"):
            case "progress":
                progress.update(message["done"], message["note"])
                tracked.begin()
            case "reject":
                draft.reject(message["item"], message["rule"], message["reason"])
            case "facts":
                draft.facts.update(message)
            case "warning":
                log.warning(message["message"])

    return listen
