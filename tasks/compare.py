"""Task `compare`: draw held-out prompts before and after RL."""

from longrl.config import CompareSettings, GenerateRlSettings, GeneratorSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import stage_task


@stage_task
def compare(
    settings: CompareSettings,
    rl_settings: GenerateRlSettings,
    sizes: GeneratorSettings,
    generator: ArtifactRef,
    rl: ArtifactRef,
    prompts: ArtifactRef,
    conditioning: ArtifactRef,
    seed: int,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Draw held-out prompts before and after RL."""
    from longrl.diffusion.compare import compare as run

    export_key(rl_settings.server)
    return run(settings, rl_settings, sizes, generator, rl, prompts, conditioning, warehouse, seed)
