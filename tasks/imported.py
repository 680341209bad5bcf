"""Task `imported`: take questions that somebody wrote elsewhere."""

from longrl.config import ImportSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def imported(settings: ImportSettings, videos: ArtifactRef, warehouse: Warehouse) -> ArtifactRef:
    """Take questions that somebody wrote elsewhere."""
    from longrl.data.exchange.importing import import_dataset

    return import_dataset(settings, videos, warehouse)
