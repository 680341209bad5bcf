"""The smallest run of a generator's stages, for tests: three steps of a random tiny generator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from longrl.config import GenerateRlSettings, PromptSettings, SamplingSettings
from longrl.diffusion.conditioning import conditioning
from longrl.diffusion.flowgrpo import flowgrpo
from longrl.diffusion.generator import generator
from longrl.diffusion.prompts import prompts
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.tiny_generator import SIZES

RL = GenerateRlSettings(
    steps=3,
    prompts_per_step=4,
    group_size=4,
    lora_rank=4,
    lora_alpha=8,
    rewards={"brightness": 1.0},
    sampling=SamplingSettings(steps=4, window=2, batch=8),
    learning_rate=1e-3,
    warmup=0,
    kl=0.1,
    checkpoint_every=1,
)


@dataclass(frozen=True)
class Start:
    """What RL starts from."""

    warehouse: Warehouse
    family: str
    prompts: ArtifactRef
    generator: ArtifactRef
    conditioning: ArtifactRef

    def rl(self, seed: int = 0, **changes) -> ArtifactRef:
        """The stage with some settings changed."""
        settings = GenerateRlSettings.model_validate(RL.model_dump() | changes)
        given = (self.generator, self.prompts, self.conditioning)
        return flowgrpo(settings, SIZES[self.family], *given, self.warehouse, seed)


def start(folder: Path, family: str = "sd3") -> Start:
    """A random generator with 12 prompts encoded."""
    warehouse, sizes = Warehouse(folder), SIZES[family]
    wanted = prompts(PromptSettings(limit=12), sizes, warehouse, 0)
    made = generator(sizes, wanted, warehouse, 0)
    return Start(warehouse, family, wanted, made, conditioning(sizes, made, wanted, warehouse))


def rows_of(path: Path) -> list[dict]:
    """The lines of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
