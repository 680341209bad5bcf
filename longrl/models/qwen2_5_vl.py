"""Qwen2.5-VL: absolute time on the temporal axis, attention windows in the tower.

Departures from calling the Hugging Face model:
1. transformers 5.19 resumes text after a video at `start + max(h, w) / 2`, whatever the video's length; the published
   rule, and vLLM's, is the largest position so far plus one (see `longrl.models.base`).
2. Attention windows of equal length run as one batch instead of one by one: the same numbers, faster on small frames.
"""

from __future__ import annotations

import types
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from longrl.models.prompt import Medium
from longrl.models.qwen_vl import QwenVL


class Qwen2_5_VL(QwenVL):
    """Video token (i, j, k) is at (floor(i * second_per_grid * tokens_per_second), j, k): report, section 2.1.3."""

    MODEL = Qwen2_5_VLForConditionalGeneration

    def prepare(self) -> None:
        super().prepare()
        for block in self.tower.blocks:
            block.attn.forward = types.MethodType(_equal_windows, block.attn)

    def moments(self, medium: Medium) -> Tensor:
        seconds = medium.second_per_grid if medium.kind == "video" else 0.0
        return (torch.arange(medium.grid[0]) * (seconds * self.model.config.vision_config.tokens_per_second)).long()

    @classmethod
    def vllm_medium(cls, medium: Medium, embeds: Tensor) -> dict[str, Tensor]:
        spacing = {"second_per_grid_ts": torch.tensor([medium.second_per_grid])} if medium.kind == "video" else {}
        return super().vllm_medium(medium, embeds) | spacing


def _equal_windows(
    self: Any, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Any = None, **kwargs: Any
) -> Tensor:
    """Vision attention in which windows of one length are a batch; other cases go to the model's own code."""
    ends = cu_seqlens.tolist()
    length = ends[1] - ends[0]
    if any(b - a != length for a, b in pairwise(ends)):
        return type(self).forward(self, hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs)
    rows = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).view(rows, 3, self.num_heads, -1).unbind(1)
    query, key = modeling_qwen2_5_vl.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    query, key, value = (
        x.view(rows // length, length, self.num_heads, -1).transpose(1, 2) for x in (query, key, value)
    )
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
    return self.proj(out.transpose(1, 2).reshape(rows, -1))
