"""Task `curate`: filter the questions and split them by video."""

from longrl.config import CurateSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import stage_task


@stage_task
def curate(
    settings: CurateSettings,
    captions: ArtifactRef,
    questions: ArtifactRef,
    seed: int,
    videos: ArtifactRef | None,
    verdicts: ArtifactRef | None,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Filter the questions and split them by video."""
    from longrl.data.curate import curate as run

    if settings.embedding_threshold:
        export_key(settings.server)
    return run(settings, captions, questions, warehouse, seed, videos, verdicts)
