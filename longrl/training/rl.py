"""The RL stage: policy gradients on questions that SFT has not seen.

This is the Prefect side: it starts `rl_loop` on the ranks, shows its progress and keeps the result. It imports no
torch.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from longrl.config import UNTRACKED, FrameSettings, RlSettings, TrackingSettings
from longrl.models.adapter import model_folder
from longrl.training.rewards import code
from longrl.training.sft import run_ranks
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 2


def rl(
    settings: RlSettings,
    frames: FrameSettings,
    sft: ArtifactRef,
    dataset: ArtifactRef,
    videos: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
    tracking: TrackingSettings = UNTRACKED,
) -> ArtifactRef:
    """Train the result of `sft` on the split "rl": `hf/` holds the result, `metrics.jsonl` a line per step; `adapter/`
    as in SFT.

    The code of one's own rewards is part of the key. Videos that can't be decoded are rejects. Raises `RewardError`
    when there is no such code, and `TrainingError` with the rank's own words or the end of its log: among others when
    trainer and rollout engine disagree before the first step. Run again, the stage goes on from its last checkpoint.
    Where nothing can be learned it ends early; the fact `ended_early` says why, and is empty otherwise.
    """

    def build(draft: Draft) -> None:
        job = {
            "settings": settings.model_dump(mode="json"),
            "frames": frames.model_dump(mode="json"),
            "tables": {"dataset": asdict(dataset), "videos": asdict(videos)},
            "model": str(model_folder(sft, warehouse)),
            "folder": str(draft.folder),
            "frame_cache": str(warehouse.cache("frames")),
            "embedding_cache": str(warehouse.cache("embeddings")),
            "seed": seed,
        }
        run_ranks("longrl.training.rl_loop", job, settings, draft, "rl", settings.steps, tracking)

    inputs = {"sft": sft, "dataset": dataset, "videos": videos}
    parts: dict[str, Any] = {"settings": settings, "frames": frames, "seed": seed}
    if digests := code(settings.rewards):
        parts["rewards"] = digests
    return warehouse.produce("rl", VERSION, parts, inputs, build)
