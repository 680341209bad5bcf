"""Task `verify`: ask a model about the questions."""

from longrl.config import VerifySettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import stage_task


@stage_task
def verify(
    settings: VerifySettings, captions: ArtifactRef, questions: ArtifactRef, seed: int, warehouse: Warehouse
) -> ArtifactRef:
    """Ask a model about the questions."""
    from longrl.data.verify import verify as run

    export_key(settings.server)
    return run(settings, captions, questions, warehouse, seed)
