"""Task `model`: build or record the student before training."""

from longrl.config import ModelSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def model(
    settings: ModelSettings, captions: ArtifactRef, dataset: ArtifactRef, seed: int, warehouse: Warehouse
) -> ArtifactRef:
    """Build or record the student before training."""
    from longrl.models.student import student

    return student(settings, captions, dataset, warehouse, seed)
