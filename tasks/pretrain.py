"""Task `pretrain`: teach a student that was built from nothing to read."""

from longrl.config import FrameSettings, SftSettings, TrackingSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import gpu_stage_task


@gpu_stage_task
def pretrain(
    settings: SftSettings,
    frames: FrameSettings,
    model: ArtifactRef,
    dataset: ArtifactRef,
    captions: ArtifactRef,
    videos: ArtifactRef,
    seed: int,
    tracking: TrackingSettings,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Teach a student that was built from nothing to read."""
    from longrl.training.sft import sft

    return sft(settings, frames, model, dataset, captions, videos, warehouse, seed, stage="pretrain", tracking=tracking)
