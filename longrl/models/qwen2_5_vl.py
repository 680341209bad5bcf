"""Qwen2.5-VL: absolute time on the temporal axis, attention windows in the tower.

transformers 5.19 resumes text after a video at `start + max(h, w) / 2`, whatever the video's length; the published
rule, and vLLM's, is the largest position so far plus one (see `longrl.models.base`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from longrl.config import ModelSettings
from longrl.models.prompt import Medium
from longrl.models.qwen_vl import QwenVL
from longrl.models.tiny import CHAT, PATCH, PIXELS, media_tokens, text_sizes, tower_sizes


class Qwen2_5_VL(QwenVL):
    """Video token (i, j, k) is at (floor(i * second_per_grid * tokens_per_second), j, k): report, section 2.1.3."""

    MODEL = Qwen2_5_VLForConditionalGeneration

    def moments(self, medium: Medium) -> Tensor:
        seconds = medium.second_per_grid if medium.kind == "video" else 0.0
        return (torch.arange(medium.grid[0]) * (seconds * self.model.config.vision_config.tokens_per_second)).long()

    @classmethod
    def vllm_medium(cls, medium: Medium, embeds: Tensor) -> dict[str, Tensor]:
        spacing = {"second_per_grid_ts": torch.tensor([medium.second_per_grid])} if medium.kind == "video" else {}
        return super().vllm_medium(medium, embeds) | spacing

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        """Every block of the tower sees the whole frame."""
        vision = tower_sizes(settings) | {
            "window_size": 8 * PATCH,
            "fullatt_block_indexes": list(range(settings.vision_depth)),
            "tokens_per_second": 1,
        }
        return Qwen2_5_VLConfig(
            text_config=text_sizes(tokenizer, settings), vision_config=vision, **media_tokens(tokenizer)
        )

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(**PIXELS),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(**PIXELS, cap_pixels_per_frame=False),
            chat_template=CHAT,
        )
