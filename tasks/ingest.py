"""Task `ingest`: name, probe and quarantine the files of a folder."""

from longrl.config import IngestSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def ingest(settings: IngestSettings, folder: str, warehouse: Warehouse) -> ArtifactRef:
    """Name, probe and quarantine the files of a folder."""
    from longrl.data.ingest import ingest as run

    return run(settings, folder, warehouse)
