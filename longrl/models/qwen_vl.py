"""What the Qwen-VL families share: frames cut into patches, one tower with a merger, M-RoPE, vLLM's names.

Shapes: N patches, D values of a patch (3 colours x 2 frames x patch x patch pixels), W width of an embedding.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoProcessor

from longrl.models.base import Student
from longrl.models.families import StudentError
from longrl.models.prompt import Grid, Kind, Medium, Slot
from longrl.models.tiny import start_attention, start_vision
from longrl.video.sample import FramePlan


class QwenVL(Student):
    """A Qwen-VL."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("video", "image")
    AXES = 3
    ENCODERS: ClassVar[tuple[str, ...]] = (".visual.",)

    @classmethod
    def load_processor(cls, folder: str | Path) -> Any:
        """Its processors of videos and images: patch sizes, colour mean and deviation."""
        return AutoProcessor.from_pretrained(folder)

    @classmethod
    def tiny_start(cls, model: Any, seed: int) -> None:
        start_attention(model.model.language_model, seed)
        start_vision(model.model.visual, seed + 1)

    def prepare(self) -> None:
        """Also have windows of equal length in the tower run as one batch."""
        super().prepare()
        for block in self.tower.blocks:
            block.attn.forward = types.MethodType(_equal_windows, block.attn)

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
        return self.processor.video_processor.temporal_patch_size

    def video(self, plan: FramePlan) -> Medium:
        p, step = self.processor.video_processor, self.temporal
        side = p.patch_size * self.merge
        if plan.height % side or plan.width % side:
            raise StudentError(
                f"frames.height={plan.height} and frames.width={plan.width} must be multiples of {side} for this model"
            )
        grid = -(-len(plan.times) // step), plan.height // p.patch_size, plan.width // p.patch_size
        pairs = (plan.times[i : i + step] for i in range(0, len(plan.times), step))
        return self.chat.video(grid, plan.second_per_grid, [(pair[0] + pair[-1]) / 2 for pair in pairs])

    def image(self, height: int, width: int) -> Medium:
        patch = self.processor.image_processor.patch_size
        return self.chat.image((1, height // patch, width // patch))

    def patches(self, frames: np.ndarray | Tensor, kind: Kind = "video") -> tuple[Tensor, Grid]:
        """Cut frames into patches, exactly as the Hugging Face processors do with frames of the right size.

        `frames`: uint8 (T, height, width, 3), RGB; an image is one frame. Returns float32 (N, D) and the grid (t, h, w)
        with N = t * h * w; an odd last frame is repeated. Raises `ValueError` when a side is no multiple of
        patch x merge (28 or 32) pixels.
        """
        p = self.processor.image_processor if kind == "image" else self.processor.video_processor
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

    def encode(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
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


def _equal_windows(
    self: Any, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Any = None, **kwargs: Any
) -> Tensor:
    """Vision attention in which windows of one length are a batch; other cases go to the model's own code."""
    ends = cu_seqlens.tolist()
    length = ends[1] - ends[0]
    if any(b - a != length for a, b in pairwise(ends)):
        return type(self).forward(self, hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs)
    rows = hidden_states.shape[0]
    if hasattr(self, "qkv"):
        query, key, value = self.qkv(hidden_states).view(rows, 3, self.num_heads, -1).unbind(1)
    else:
        query, key, value = (part(hidden_states).view(rows, self.num_heads, -1) for part in (self.q, self.k, self.v))
    rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb_vision
    query, key = rotate(query, key, *position_embeddings)
    query, key, value = (
        x.view(rows // length, length, self.num_heads, -1).transpose(1, 2) for x in (query, key, value)
    )
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
    return self.proj(out.transpose(1, 2).reshape(rows, -1))
