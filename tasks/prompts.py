"""Task `prompts`: what a generator is to draw, with what is held out."""

from longrl.config import GeneratorSettings, PromptSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def prompts(settings: PromptSettings, sizes: GeneratorSettings, seed: int, warehouse: Warehouse) -> ArtifactRef:
    """What a generator is to draw, with what is held out."""
    from longrl.diffusion.prompts import prompts as run

    return run(settings, sizes, warehouse, seed)
