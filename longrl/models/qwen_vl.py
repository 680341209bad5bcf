"""What the Qwen-VL families share: frames cut into patches, one tower with a merger, M-RoPE, vLLM's names.

Shapes: N patches, D values of a patch (3 colours x 2 frames x patch x patch pixels), W width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoVideoProcessor

from longrl.models.base import Student
from longrl.models.prompt import Grid, Kind, Medium, Slot
from longrl.video.sample import FramePlan


class QwenVL(Student):
    """A Qwen-VL; `MODEL` is its class in transformers."""

    MODEL: ClassVar[Any]
    KINDS: ClassVar[tuple[Kind, ...]] = ("video", "image")
    AXES = 3
    ENCODERS = (".visual.",)

    @classmethod
    def load_model(cls, folder: str | Path, dtype: torch.dtype) -> Any:
        return cls.MODEL.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")

    @classmethod
    def load_processor(cls, folder: str | Path) -> Any:
        """The video processor: patch sizes, colour mean and deviation."""
        return AutoVideoProcessor.from_pretrained(folder)

    @property
    def tower(self) -> Any:
        return self.model.model.visual

    def group(self, name: str) -> list[nn.Module]:
        if name == "language":
            return [self.language_model, self.model.get_output_embeddings()]
        merger = self.mergers()
        if name == "projector":
            return merger
        return [module for module in self.tower.children() if not any(module is each for each in merger)]

    def mergers(self) -> list[nn.Module]:
        """The modules between tower and language model."""
        return [self.tower.merger]

    def digested(self) -> list[tuple[Any, nn.Module]]:
        return [(self.tower.config, self.tower)]

    @property
    def merge(self) -> int:
        return self.model.config.vision_config.spatial_merge_size

    @property
    def temporal(self) -> int:
        return self.processor.temporal_patch_size

    def video(self, plan: FramePlan) -> Medium:
        p, step = self.processor, self.temporal
        grid = -(-len(plan.times) // step), plan.height // p.patch_size, plan.width // p.patch_size
        pairs = (plan.times[i : i + step] for i in range(0, len(plan.times), step))
        return self.chat.video(grid, plan.second_per_grid, [(pair[0] + pair[-1]) / 2 for pair in pairs])

    def image(self, height: int, width: int) -> Medium:
        return self.chat.image((1, height // self.processor.patch_size, width // self.processor.patch_size))

    def patches(self, frames: np.ndarray | Tensor, kind: Kind = "video") -> tuple[Tensor, Grid]:
        """Cut frames into patches, exactly as the Hugging Face processors do with frames of the right size.

        `frames`: uint8 (T, height, width, 3), RGB; an image is one frame. Returns float32 (N, D) and the grid (t, h, w)
        with N = t * h * w; an odd last frame is repeated. Raises `ValueError` when a side is no multiple of
        patch x merge (28 or 32) pixels.
        """
        p = self.processor
        patch, merge, temporal = p.patch_size, p.merge_size, p.temporal_patch_size
        x = torch.tensor(np.asarray(frames))  # a copy: cached frames are read-only
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[3] != 3:
            raise ValueError(f"frames must be uint8 (T, height, width, 3), not {x.dtype} {tuple(x.shape)}")
        if x.shape[1] % (patch * merge) or x.shape[2] % (patch * merge):
            raise ValueError(f"frames of {x.shape[1]}x{x.shape[2]} pixels: sides must be multiples of {patch * merge}")
        if odd := -x.shape[0] % temporal:
            x = torch.cat([x, x[-1:].expand(odd, -1, -1, -1)])
        mean, std = (torch.tensor(v) * (1.0 / p.rescale_factor) for v in (p.image_mean, p.image_std))
        x = (x.to(torch.float32) - mean) / std
        t, h, w = x.shape[0] // temporal, x.shape[1] // patch, x.shape[2] // patch
        x = x.view(t, temporal, h // merge, merge, patch, w // merge, merge, patch, 3)
        return x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(t * h * w, -1), (t, h, w)

    def encode(self, pixels: Sequence[Tensor], grids: Sequence[Grid], kind: Kind = "video") -> list[Tensor]:
        """Embed videos or images: one (t * h * w / merge², W) each."""
        weight = self.tower.patch_embed.proj.weight
        joined = torch.cat([x.to(weight.device, weight.dtype) for x in pixels])
        embeds = self.joined(self.tower(joined, grid_thw=torch.tensor(grids, device=weight.device)))
        return list(embeds.split([t * h * w // self.merge**2 for t, h, w in grids]))

    def joined(self, output: Any) -> Tensor:
        """The tower's output as embeddings (tokens, W)."""
        return output.pooler_output

    def spread(self, slot: Slot) -> Tensor:
        """Token (i, j, k) of a video or an image is at (time of i, j, k)."""
        (medium,) = slot.media
        _, h, w = medium.grid
        axes = torch.meshgrid(
            self.moments(medium), torch.arange(h // self.merge), torch.arange(w // self.merge), indexing="ij"
        )
        return torch.stack(axes).reshape(3, -1)

    def moments(self, medium: Medium) -> Tensor:
        """Positions in time (t,) of the temporal patches."""
        return torch.arange(medium.grid[0])

    @classmethod
    def vllm_medium(cls, medium: Medium, embeds: Tensor) -> dict[str, Tensor]:
        return {f"{medium.kind}_embeds": embeds, f"{medium.kind}_grid_thw": torch.tensor([medium.grid])}
