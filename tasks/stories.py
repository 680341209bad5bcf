"""Task `stories`: render the story corpus."""

from longrl.config import StoriesSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def stories(settings: StoriesSettings, seed: int, warehouse: Warehouse) -> ArtifactRef:
    """Render the story corpus."""
    from longrl.data.stories import render_stories

    return render_stories(settings, seed, warehouse)
