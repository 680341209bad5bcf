"""Task `benchmark`: have a model answer a benchmark of the field."""

from contextlib import nullcontext

from longrl.config import BenchmarkSettings, FrameSettings
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.keys import export_key
from tasks.limits import on_gpu
from tasks.stage_task import stage_task


@stage_task
def benchmark(settings: BenchmarkSettings, frames: FrameSettings, seed: int, warehouse: Warehouse) -> ArtifactRef:
    """Have a model answer a benchmark of the field."""
    from longrl.evaluation.benchmark import benchmark as run

    export_key(settings.server)
    export_key(settings.judge)
    with nullcontext() if settings.model.startswith("openai:") else on_gpu():
        return run(settings, frames, warehouse, seed)
