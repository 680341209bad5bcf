"""Task `generator`: build or take over the generator before training."""

from longrl.config import GeneratorSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def generator(settings: GeneratorSettings, prompts: ArtifactRef, seed: int, warehouse: Warehouse) -> ArtifactRef:
    """Build or take over the generator before training."""
    from longrl.diffusion.generator import generator as run

    return run(settings, prompts, warehouse, seed)
