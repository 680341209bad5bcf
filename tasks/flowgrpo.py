"""Task `flowgrpo`: reinforce what earns rewards in pictures and clips."""

from longrl.config import GenerateRlSettings, GeneratorSettings, TrackingSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.stage_task import stage_task


@stage_task
def flowgrpo(
    settings: GenerateRlSettings,
    sizes: GeneratorSettings,
    generator: ArtifactRef,
    prompts: ArtifactRef,
    conditioning: ArtifactRef,
    seed: int,
    tracking: TrackingSettings,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Reinforce what earns rewards in pictures and clips."""
    from longrl.diffusion.flowgrpo import flowgrpo as run

    export_key(settings.server)
    return run(settings, sizes, generator, prompts, conditioning, warehouse, seed, tracking)
