"""Stage `flowmatch`: teach a tiny generator the rendered world, so that RL starts from something that draws.

What its makers' pretraining is to a real generator: the transformer learns velocities by flow matching. Only prompts of
the split train are seen. This is the Prefect side: it imports no torch.
"""

from __future__ import annotations

from longrl.config import UNTRACKED, FlowMatchingSettings, GeneratorSettings, TrackingSettings
from longrl.diffusion import world
from longrl.diffusion.prompts import PromptError
from longrl.diffusion.training import train
from longrl.warehouse.artifacts import ArtifactRef, Warehouse

VERSION = 1


def flowmatch(
    settings: FlowMatchingSettings,
    sizes: GeneratorSettings,
    generator: ArtifactRef,
    prompts: ArtifactRef,
    conditioning: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
    tracking: TrackingSettings = UNTRACKED,
) -> ArtifactRef:
    """Pretrain on rendered pictures or clips: `pipeline/` holds the result, `metrics.jsonl` a line per step.

    Raises `PromptError` when a training prompt is none of the rendered world's. Run again, a killed stage goes on from
    its last checkpoint.
    """
    strange = [prompt for prompt in prompts.table()["prompt"] if world.read(prompt) is None]
    if strange:
        raise PromptError(
            f"the tiny generator knows its rendered world only, and {strange[0][:80]!r} is not of it (nor are "
            f"{len(strange) - 1} others); leave prompts.path empty, or give a trained pipeline with generator.path"
        )

    shown = {"height": sizes.height, "width": sizes.width, "frames": sizes.frames}
    inputs = {"generator": generator, "prompts": prompts, "conditioning": conditioning}
    return train("flowmatch", VERSION, settings, sizes, inputs, warehouse, seed, tracking, shown)
