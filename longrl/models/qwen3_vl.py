"""Qwen3-VL: time told by text before each temporal patch, features of earlier tower blocks added to early layers.

    <0.5 seconds><|vision_start|>[pads of a temporal patch]<|vision_end|><1.5 seconds><|vision_start|>...

1. What a video takes in a prompt is that sequence, as published (`Qwen3VLProcessor` of transformers 4.57). transformers
   5.19 leaves the `<|vision_start|>` and `<|vision_end|>` of the chat template standing around all of it.
2. Embeddings are H * (1 + levels) wide: those of the language model's input, then those added after its first layers
   (DeepStack, arXiv:2406.04334). They are cached together, and vLLM takes them so.
3. A temporal patch is at one point in time; the rotary frequencies of the three axes are interleaved.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from longrl.config import ModelSettings
from longrl.models.chat import ChatFormat
from longrl.models.prompt import Medium, Slot
from longrl.models.qwen_vl import QwenVL
from longrl.models.tiny import CHAT, PIXELS, media_tokens, start_attention, start_vision, text_sizes, tower_sizes


class TimedChat(ChatFormat):
    """Qwen's chat, in which a video's temporal patches each follow their moment in seconds."""

    def video(self, grid: Sequence[int], second_per_grid: float = 1.0, times: Sequence[float] = ()) -> Medium:
        """A video of this patch grid (t, h, w); without `times` the patches are `second_per_grid` apart from 0 on."""
        times = times or [second_per_grid * step for step in range(grid[0])]
        return super().video(grid, second_per_grid, times)

    def slot(self, *media: Medium) -> tuple[tuple[int, ...], Slot, tuple[int, ...]]:
        """A video's slot holds moments and marks; an image has its marks around it."""
        (medium,) = media
        if medium.kind != "video":
            return super().slot(medium)
        pad, (start, end) = self.pads["video"], self.marks
        each = (start, *(pad,) * (medium.tokens // medium.grid[0]), end)
        expanded = [token for time in medium.times for token in (*self.moment(time), *each)]
        return (), Slot(media, (pad,), (pad,), tuple(expanded)), ()

    def moment(self, seconds: float) -> list[int]:
        """Ids of a moment, alone as vLLM makes them."""
        return self.tokenizer(f"<{seconds:.1f} seconds>", add_special_tokens=False)["input_ids"]


class Qwen3VL(QwenVL):
    """Qwen3-VL technical report, arXiv:2511.21631."""

    MODEL = Qwen3VLForConditionalGeneration
    CHAT = TimedChat
    VLLM_TOWER = True  # without it deepstack is off
    ENCODERS: ClassVar[tuple[str, ...]] = ()
    TEXTS = tuple(f"<{tenths / 10:.1f} seconds>" for tenths in range(0, 1000, 5)) * 20  # so that a word is a token

    @classmethod
    def tiny_start(cls, model: Any, seed: int) -> None:
        common = start_attention(model.model.language_model, seed)
        start_vision(model.model.visual, seed + 1)
        model.model.visual.merger.linear_fc2.bias.data.copy_(common)

    @classmethod
    def embedding_width(cls, config: Any) -> int:
        return config.text_config.hidden_size * (1 + len(config.vision_config.deepstack_visual_indexes))

    def prepare(self) -> None:
        """Also have deepstack features added to whole rows, in which text has zeros."""
        super().prepare()
        self.language_model._deepstack_process = MethodType(_add, self.language_model)

    def mergers(self) -> list[nn.Module]:
        return [self.tower.merger, self.tower.deepstack_merger_list]

    def joined(self, output: Any) -> Tensor:
        return torch.cat([output.pooler_output, *output.deepstack_features], 1)

    def language_inputs(self, embeds: Tensor) -> dict[str, Any]:
        first, *later = embeds.split(self.hidden_size, -1)
        deep = {"deepstack_visual_embeds": later, "visual_pos_masks": None} if later else {}
        return {"inputs_embeds": first, "attention_mask": None} | deep

    def spread(self, slot: Slot) -> Tensor:
        """Marks and moments count up like text; tokens (j, k) of a temporal patch are at (s, s + j, s + k)."""
        (medium,) = slot.media
        t, h, w = (medium.grid[0], medium.grid[1] // self.merge, medium.grid[2] // self.merge)
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        block = torch.stack([torch.zeros(h * w, dtype=torch.long), rows.flatten(), columns.flatten()])
        pads = torch.tensor(slot.expanded) == slot.pads[0]
        parts, start, at = [], 0, 0
        for _ in range(t):
            text = int(pads[at:].int().argmax())  # tokens before the next pad
            parts += [(torch.arange(text) + start).expand(3, -1), block + start + text]
            start, at = start + text + max(h, w), at + text + h * w
        left = len(pads) - at
        return torch.cat([*parts, (torch.arange(left) + start).expand(3, -1)], 1)

    @classmethod
    def vllm_medium(cls, medium: Medium, embeds: Tensor) -> dict[str, Tensor]:
        times = {"timestamps": torch.tensor([medium.times], dtype=torch.float64)} if medium.kind == "video" else {}
        return super().vllm_medium(medium, embeds) | times

    @classmethod
    def vllm_items(cls, slot: Slot, medium: Medium, embeds: Tensor) -> list[tuple[Medium, Tensor, int, int]]:
        """A server takes no placeholders with gaps: a video's temporal patches go as images, which are placed alike."""
        if medium.kind != "video":
            return super().vllm_items(slot, medium, embeds)
        t, h, w = medium.grid
        count = medium.tokens // t
        starts = [at for at, token in enumerate(slot.expanded) if token == slot.pads[0]][::count]
        still = Medium("image", count, (1, h, w))
        return [(still, part, at, count) for part, at in zip(embeds.split(count), starts, strict=True)]

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        vision = tower_sizes(settings) | {
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": list(range(settings.vision_depth - 1)),
        }
        text = text_sizes(tokenizer, settings) | {"head_dim": settings.hidden_size // settings.heads}
        text["rope_parameters"]["mrope_interleaved"] = True
        return Qwen3VLConfig(text_config=text, vision_config=vision, **media_tokens(tokenizer))

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(**PIXELS),
            tokenizer=tokenizer,
            video_processor=Qwen3VLVideoProcessor(**PIXELS, cap_pixels_per_frame=False),
            chat_template=CHAT,
        )


def _add(self: Any, hidden_states: Tensor, visual_pos_masks: None, visual_embeds: Tensor) -> Tensor:
    return hidden_states + visual_embeds.to(hidden_states.dtype)
