"""Task `conditioning`: every prompt through the text encoders, once."""

from longrl.config import GeneratorSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def conditioning(
    settings: GeneratorSettings, generator: ArtifactRef, prompts: ArtifactRef, warehouse: Warehouse
) -> ArtifactRef:
    """Every prompt through the text encoders, once."""
    from longrl.diffusion.conditioning import conditioning as run

    return run(settings, generator, prompts, warehouse)
