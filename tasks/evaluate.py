"""Task `evaluate`: answer the held-out questions with every model."""

from longrl.config import EvaluateSettings, FrameSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import gpu_stage_task


@gpu_stage_task
def evaluate(
    settings: EvaluateSettings,
    frames: FrameSettings,
    models: dict[str, ArtifactRef],
    dataset: ArtifactRef,
    videos: ArtifactRef,
    seed: int,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Answer the held-out questions with every model."""
    from longrl.evaluation.evaluate import evaluate as run

    return run(settings, frames, models, dataset, videos, warehouse, seed)
