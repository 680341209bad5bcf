"""LLaVA-OneVision: a SigLIP tower, a two-layer projector and a Qwen2 (arXiv:2408.03326).

What is special about it:
1. A video frame's embeddings are scaled down to half their side, and one learned newline ends the whole video. An image
   is seen whole and, when it is the only one, in tiles too, each row of which ends with the newline. Newlines belong to
   the embeddings: they are cached with them, and frozen with the projector.
2. Positions are one-dimensional: the language model is a plain Qwen2.
3. vLLM's LLaVA-OneVision takes no embeddings of videos. Its language model takes text by id and media by embedding, so
   rollouts go that way.

Shapes: T frames, P pixels along a side, S patches along a side, H hidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from longrl.config import ModelSettings
from longrl.models.chat import WORDS, ChatError, ChatFormat
from longrl.models.families import StudentError
from longrl.models.prompt import Grid, Kind, Medium, Prompt, Slot
from longrl.models.siglip import (
    TINY_SIDE,
    SiglipStudent,
    features,
    freeze_unused,
    layers_used,
    start_siglip,
    tiny_tower,
)
from longrl.models.tiny import PATCH, start_attention, text_sizes
from longrl.video.sample import FramePlan

PUBLISHED = (  # for a tokenizer whose template knows no images; the published one with its line breaks
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% for c in m['content'] %}{% if c['type'] != 'text' %}<{{ c['type'] }}>{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


class LlavaChat(ChatFormat):
    """All media stand together before the text, with a line break between."""

    PADS: ClassVar = {"video": "<video>", "image": "<image>"}
    MARKS = ()
    TEMPLATE = PUBLISHED

    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        own = getattr(self.tokenizer, "chat_template", None) or ""
        template = own if "'image'" in own else self.TEMPLATE
        content = [{"type": "image"}, {"type": "text", "text": WORDS}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
        )
        opening, found, rest = text.partition("<image>")
        between, also, closing = rest.partition(WORDS)
        if not (found and also):
            raise ChatError("the tokenizer's chat template does not show an image and then the user's words")
        closing = closing.rstrip("\n") + "\n"  # the published template leaves this line break to the model
        before, self._between, after = (
            tuple(self.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (opening, between, closing)
        )
        return before, after

    def slot(self, *media: Medium) -> tuple[tuple[int, ...], Slot, tuple[int, ...]]:
        (medium,) = media
        pad = self.pads[medium.kind]
        return (), Slot(media, (pad,), (pad,), (pad,) * medium.tokens), ()

    def _tokens(self, grid: Sequence[int]) -> int:
        """Embeddings of a video: frames at half their side, and the newline."""
        t, h, w = (int(n) for n in grid)
        return t * -(-h // 2) * -(-w // 2) + 1

    def prompt(self, text: str, media: Sequence[Medium | tuple[Medium, ...]] = ()) -> Prompt:
        prompt = super().prompt(text, media)
        return replace(prompt, tail=(*self._between, *prompt.tail))


class LlavaOnevision(SiglipStudent):
    """A LLaVA-OneVision as transformers loads it."""

    MODEL = LlavaOnevisionForConditionalGeneration
    CHAT = LlavaChat
    KINDS: ClassVar[tuple[Kind, ...]] = ("video", "image")
    ENCODERS = ("vision_tower.", "multi_modal_projector.")

    @classmethod
    def load_processor(cls, folder: str | Path) -> Any:
        """The image and the video processor, and how images are tiled."""
        return AutoProcessor.from_pretrained(folder)

    TOKENS: ClassVar = ("<video>", "<image>")

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        return LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **text_sizes(tokenizer, settings, axes=1)},
            vision_config=tiny_tower(settings),
            vision_feature_layer=-2,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=[[TINY_SIDE * rows, TINY_SIDE * columns] for rows in (1, 2) for columns in (1, 2)],
            tie_word_embeddings=True,
        )

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        size = {"height": TINY_SIDE, "width": TINY_SIDE}
        pinpoints = [[TINY_SIDE * rows, TINY_SIDE * columns] for rows in (1, 2) for columns in (1, 2)]
        return LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
            tokenizer,
            LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
            num_image_tokens=(TINY_SIDE // PATCH) ** 2,
            vision_feature_select_strategy="full",
            chat_template=PUBLISHED,
        )

    @classmethod
    def tiny_start(cls, model: Any, seed: int) -> None:
        start_attention(model.model.language_model, seed)
        start_siglip(model.model.vision_tower, seed + 1)

    def __init__(self, model: Any, tokenizer: Any, processor: Any = None):
        if processor is not None and processor.chat_template:
            tokenizer.chat_template = processor.chat_template  # published apart from the tokenizer
        config = model.config
        if not isinstance(config.vision_feature_layer, int) or config.vision_feature_select_strategy != "full":
            raise StudentError(
                f"this LLaVA-OneVision reads layers {config.vision_feature_layer} of its tower with the strategy "
                f"{config.vision_feature_select_strategy!r}; known are a single layer and 'full'"
            )
        super().__init__(model, tokenizer, processor)
        freeze_unused(self.tower, self.layers)

    @property
    def tower(self) -> Any:
        return self.model.model.vision_tower

    @property
    def layers(self) -> int:
        """Tower layers that are run."""
        return layers_used(self.tower, self.model.config.vision_feature_layer)

    def group(self, name: str) -> list[nn.Module]:
        inner = self.model.model
        newline = nn.Module()
        newline.weight = inner.image_newline
        parts = {"tower": [inner.vision_tower], "projector": [inner.multi_modal_projector, newline]}
        return parts.get(name, [inner.language_model, self.model.get_output_embeddings()])

    def colours(self) -> Any:
        return self.processor.video_processor

    def video(self, plan: FramePlan) -> Medium:
        self.check_size(plan.height, plan.width)
        return self.chat.video(self.grid(len(plan.times)), plan.second_per_grid)

    def image(self, height: int, width: int) -> Medium:
        """An image of any size; its grid counts pixels, from which follows how it is tiled."""
        tokens = self.processor._get_number_of_features(height, width, self.side, self.side)
        return Medium("image", tokens, (1, height, width))

    def patches(self, frames: np.ndarray | Tensor, kind: Kind = "video") -> tuple[Tensor, Grid]:
        """A video's frames scaled, float32 (T, 3, P, P); an image whole and in tiles, (1, 1 + tiles, 3, P, P)."""
        if kind == "video":
            return super().patches(frames)
        (image,) = torch.tensor(np.asarray(frames))
        cut = self.processor.image_processor(image.permute(2, 0, 1), return_tensors="pt")
        return cut["pixel_values"], (1, image.shape[0], image.shape[1])

    def encode(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
        inner = self.model.model
        flat = [x.flatten(0, 1) if x.ndim == 5 else x for x in pixels]
        seen = inner.multi_modal_projector(features(self.tower, torch.cat(flat), self.layers))
        return [
            self._image(each, grid)
            if x.ndim == 5
            else torch.cat([inner.apply_pooling(each).flatten(0, 1), self.closing()])
            for x, each, grid in zip(pixels, seen.split([len(x) for x in flat]), grids, strict=True)
        ]

    def _image(self, tiles: Tensor, grid: Grid) -> Tensor:
        """An image's tiles (1 + tiles, S², H) joined, without what was padded, each row with the newline."""
        packed, _ = self.model.model.pack_image_features(
            [tiles],
            torch.tensor([grid[1:]]),
            image_newline=self.model.model.image_newline,
            vision_aspect_ratio=self.model.config.vision_aspect_ratio,
        )
        return packed[0]

    def closing(self) -> Tensor:
        return self.model.model.image_newline[None]

    def tower_digest(self) -> str:
        """As everywhere, and over the newline and how images are tiled."""
        config, newline = self.model.config, self.model.model.image_newline.detach().cpu()
        told = [config.vision_feature_layer, config.vision_aspect_ratio, config.image_grid_pinpoints, newline.tolist()]
        return hashlib.sha256(f"{super().tower_digest()} {told}".encode()).hexdigest()[:16]

    def digested(self) -> list[tuple[Any, nn.Module]]:
        return [(self.tower.config, self.tower), (self.model.config, self.model.model.multi_modal_projector)]

    @classmethod
    def vllm_options(cls) -> dict[str, Any]:
        return super().vllm_options() | {"enable_mm_embeds": False, "enable_prompt_embeds": True}
