"""Qwen2, Qwen2.5 and Qwen3 for text alone: no tower, no media, positions on one axis."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from longrl.config import ModelSettings
from longrl.models.base import Student
from longrl.models.chat import ChatFormat
from longrl.models.tiny import start_attention, text_sizes
from longrl.mrsp import attention
from longrl.mrsp.lean import make_lean


class TextChat(ChatFormat):
    """Qwen's chat without media."""

    PADS: ClassVar[dict[str, str]] = {}
    MARKS: ClassVar[tuple[str, ...]] = ()


class Qwen2(Student):
    """Qwen2 and Qwen2.5."""

    MODEL: ClassVar[Any] = Qwen2ForCausalLM
    CHAT = TextChat

    def prepare(self) -> None:
        attention.register()
        make_lean(self.language_model)
        self.model.set_attn_implementation(attention.NAME)

    @property
    def language_model(self) -> Any:
        return self.model.model

    def group(self, name: str) -> list[nn.Module]:
        return [self.language_model, self.model.get_output_embeddings()] if name == "language" else []

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        return Qwen2Config(**text_sizes(tokenizer, settings, axes=1))

    @classmethod
    def tiny_start(cls, model: Any, seed: int) -> None:
        start_attention(model.model, seed)


class Qwen3(Qwen2):
    """Qwen3: queries and keys are normed."""

    MODEL = Qwen3ForCausalLM

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        sizes = text_sizes(tokenizer, settings, axes=1) | {"head_dim": settings.hidden_size // settings.heads}
        return Qwen3Config(**sizes)
