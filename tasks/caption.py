"""Task `caption`: describe each clip."""

from longrl.config import CaptionSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import stage_task


@stage_task
def caption(settings: CaptionSettings, videos: ArtifactRef, clips: ArtifactRef, warehouse: Warehouse) -> ArtifactRef:
    """Describe each clip."""
    from longrl.data.caption import caption as run

    export_key(settings.server)
    return run(settings, videos, clips, warehouse)
