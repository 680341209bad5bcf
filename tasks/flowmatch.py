"""Task `flowmatch`: teach a tiny generator to draw."""

from longrl.config import FlowMatchingSettings, GeneratorSettings, TrackingSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.stage_task import stage_task


@stage_task
def flowmatch(
    settings: FlowMatchingSettings,
    sizes: GeneratorSettings,
    generator: ArtifactRef,
    prompts: ArtifactRef,
    conditioning: ArtifactRef,
    seed: int,
    tracking: TrackingSettings,
    warehouse: Warehouse,
) -> ArtifactRef:
    """Teach a tiny generator to draw."""
    from longrl.diffusion.flowmatch import flowmatch as run

    return run(settings, sizes, generator, prompts, conditioning, warehouse, seed, tracking)
