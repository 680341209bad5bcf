"""Task `reason`: write questions with a chain of thought."""

from longrl.config import ReasonSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import stage_task


@stage_task
def reason(settings: ReasonSettings, captions: ArtifactRef, seed: int, warehouse: Warehouse) -> ArtifactRef:
    """Write questions with a chain of thought."""
    from longrl.data.reason import reason as run

    export_key(settings.server)
    return run(settings, captions, warehouse, seed)
