"""Task `sft`: fine-tune on captions and chains of thought."""

from longrl.config import FrameSettings, SftSettings, TrackingSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import gpu_stage_task


@gpu_stage_task
def sft(
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
    """Fine-tune on captions and chains of thought."""
    from longrl.training.sft import sft as run

    return run(settings, frames, model, dataset, captions, videos, warehouse, seed, tracking=tracking)
