"""Task `rl`: reinforce on questions not seen in SFT."""

from longrl.config import FrameSettings, RlSettings, TrackingSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import gpu_stage_task


@gpu_stage_task
def rl(
    settings: RlSettings,
    frames: FrameSettings,
    sft: ArtifactRef,
    dataset: ArtifactRef,
    videos: ArtifactRef,
    seed: int,
    tracking: TrackingSettings,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Reinforce on questions not seen in SFT."""
    from longrl.training.rl import rl as run

    export_key(settings.server)
    return run(settings, frames, sft, dataset, videos, warehouse, seed, tracking)
