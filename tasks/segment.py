"""Task `segment`: cut videos into clips."""

from longrl.config import SegmentSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def segment(settings: SegmentSettings, videos: ArtifactRef, warehouse: Warehouse) -> ArtifactRef:
    """Cut videos into clips."""
    from longrl.data.segment import segment as run

    return run(settings, videos, warehouse)
