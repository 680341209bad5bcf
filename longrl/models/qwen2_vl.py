"""Qwen2-VL: temporal patches counted one by one on the temporal axis, whatever the time between them.

Its tower sees a whole temporal patch in every block. After a video transformers' positions are off, as Qwen2.5-VL's.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from longrl.config import ModelSettings
from longrl.models.qwen_vl import QwenVL
from longrl.models.tiny import CHAT, MERGE, PATCH, PIXELS, media_tokens, text_sizes


class Qwen2VL(QwenVL):
    """Video token (i, j, k) is at (i, j, k): Wang et al. 2024, arXiv:2409.12191, section 2.1."""

    MODEL = Qwen2VLForConditionalGeneration

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        vision = {
            "depth": settings.vision_depth,
            "embed_dim": settings.vision_width,
            "mlp_ratio": 2,
            "num_heads": 4,
            "hidden_size": settings.hidden_size,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "initializer_range": settings.initializer_range,
        }
        return Qwen2VLConfig(
            text_config=text_sizes(tokenizer, settings), vision_config=vision, **media_tokens(tokenizer)
        )

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        return Qwen2VLProcessor(
            image_processor=Qwen2VLImageProcessor(**PIXELS),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(**PIXELS, cap_pixels_per_frame=False),
            chat_template=CHAT,
        )
