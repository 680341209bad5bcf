"""Task `difficulty`: let the student answer the questions of the RL split."""

from longrl.config import DifficultySettings, FrameSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import gpu_stage_task


@gpu_stage_task
def difficulty(
    settings: DifficultySettings,
    frames: FrameSettings,
    student: ArtifactRef,
    dataset: ArtifactRef,
    videos: ArtifactRef,
    seed: int,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Let the student answer the questions of the RL split."""
    from longrl.data.difficulty import difficulty as run

    return run(settings, frames, student, dataset, videos, warehouse, seed)
