"""What families with a SigLIP tower share: pictures of one size, one after another.

Shapes: T frames, P pixels along a side, S = P / patch patches along a side, C the tower's width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import SiglipVisionConfig

from longrl.config import ModelSettings
from longrl.models.base import Student
from longrl.models.mixed import mixed_input
from longrl.models.prompt import Grid, Kind, Prompt
from longrl.models.tiny import PATCH

TINY_SIDE = 4 * PATCH  # pixels along a side of a tiny tower's pictures


def layers_used(tower: Any, chosen: int) -> int:
    """Layers of a tower that must run for a hidden state; 0 is the input of the first, -1 the output of the last."""
    return chosen if chosen >= 0 else tower.config.num_hidden_layers + 1 + chosen


def features(tower: Any, pixels_T3PP: Tensor, layers: int) -> Tensor:
    """The hidden states (T, S², C) after so many layers of a `SiglipVisionModel`, without running the others."""
    weight = tower.embeddings.patch_embedding.weight
    x = tower.embeddings(pixels_T3PP.to(weight.device, weight.dtype))
    for layer in tower.encoder.layers[:layers]:
        x = layer(x, attention_mask=None)
    return x


def freeze_unused(tower: Any, layers: int) -> None:
    """Take the weights after so many layers out of training: they are kept in the checkpoint, but never run."""
    used = ("embeddings.", *(f"encoder.layers.{i}." for i in range(layers)))
    for name, parameter in tower.named_parameters():
        if not name.startswith(used):
            parameter.requires_grad_(False)


def tiny_tower(settings: ModelSettings) -> SiglipVisionConfig:
    """A tower of the recipe's sizes, with one layer more than is run: families read it before the last."""
    headless: dict[str, Any] = {"vision_use_head": False}
    return SiglipVisionConfig(
        hidden_size=settings.vision_width,
        intermediate_size=2 * settings.vision_width,
        num_hidden_layers=settings.vision_depth + 1,
        num_attention_heads=4,
        image_size=TINY_SIDE,
        patch_size=PATCH,
        **headless,
    )


@torch.no_grad()
def start_siglip(tower: Any, seed: int, branch: float = 0.25) -> None:
    """What `longrl.models.tiny.start_vision` does to other towers: smooth filters, and blocks that change little."""
    generator = torch.Generator().manual_seed(seed)
    filters = tower.embeddings.patch_embedding.weight  # [width, colours, P, P]
    width, colours, P, _ = filters.shape
    place = (torch.arange(P) + 0.5) / P
    waves = torch.stack([torch.ones(P), 2**0.5 * torch.cos(torch.pi * place)]) / P
    shapes = torch.einsum("bi,cj->bcij", waves, waves).flatten(0, 1)
    filters.copy_(torch.einsum("wcs,sij->wcij", torch.randn(width, colours, len(shapes), generator=generator), shapes))
    for layer in tower.encoder.layers:
        layer.self_attn.out_proj.weight.mul_(branch)
        layer.mlp.fc2.weight.mul_(branch)


class SiglipStudent(Student):
    """A student whose tower sees every frame by itself, at the one size it was trained with."""

    VLLM_MIXED = True

    @property
    @abstractmethod
    def tower(self) -> Any:
        """The `SiglipVisionModel`."""

    @property
    def side(self) -> int:
        """Pixels along a side of a picture."""
        return self.tower.config.image_size

    def grid(self, steps: int) -> Grid:
        """The patch grid of so many temporal patches."""
        patches = self.side // self.tower.config.patch_size
        return steps, patches, patches

    def colours(self) -> Any:
        """The processor that says how colours are scaled."""
        return self.processor

    def patches_a_step(self, grid: Grid) -> int:
        return self.temporal * super().patches_a_step(grid)

    def patches(self, frames: np.ndarray | Tensor, kind: Kind = "video") -> tuple[Tensor, Grid]:
        """Scale frames as the SigLIP processor does with frames of the right size: float32 (T, 3, P, P).

        `frames`: uint8 (T, P, P, 3), RGB. Where frames are averaged in groups, the last one is repeated to fill its
        group. Raises `ValueError` when the frames are not as large as the tower sees.
        """
        x = torch.tensor(np.asarray(frames))  # a copy: cached frames are read-only
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[3] != 3:
            raise ValueError(f"frames must be uint8 (T, height, width, 3), not {x.dtype} {tuple(x.shape)}")
        self.check_size(x.shape[1], x.shape[2])
        temporal = self.temporal if kind == "video" else 1
        if missing := -len(x) % temporal:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        p = self.colours()
        x = (x.to(torch.float32) * p.rescale_factor - torch.tensor(p.image_mean)) / torch.tensor(p.image_std)
        return x.permute(0, 3, 1, 2).contiguous(), self.grid(len(x) // temporal)

    @classmethod
    def vllm_input(cls, prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any]:
        return mixed_input(prompt, embeds)

    def check_size(self, height: int, width: int) -> None:
        """Raise `ValueError` unless the tower sees pictures of this size."""
        if (height, width) != (self.side, self.side):
            raise ValueError(
                f"pictures of {width}x{height} pixels, but this model sees {self.side}x{self.side}: "
                f"set frames.height and frames.width to {self.side}"
            )
