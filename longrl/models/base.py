"""What the rest of longrl knows of a model: the one interface behind which every family is a file.

A family's file says how frames become pixels and pixels embeddings, where tokens stand (positions), which modules are
tower, projector and language model. Everything else is here, once; what vLLM takes is `longrl.models.vllm_inputs`:

1. Positions are built here and passed always, by one walk over a prompt: text counts up on all axes, a slot is placed
   by the family (`spread`), and what follows goes on at the largest position so far plus one.
2. The language model is run on embeddings and returns hidden states. Logits exist for response tokens only
   (`longrl.mrsp.prefix.token_logprobs`).
3. Embeddings may be wider than the language model (`width`): what a family adds to later layers travels along.

Shapes: L tokens, H hidden, W width of embeddings, A axes of positions, N values of a tower's input.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from longrl.config import ModelSettings
from longrl.models.chat import ChatFormat
from longrl.models.families import StudentError
from longrl.models.prompt import Grid, Kind, Medium, Prompt, Slot
from longrl.models.vllm_inputs import VllmInputs
from longrl.mrsp import attention
from longrl.mrsp.lean import make_lean
from longrl.video.sample import FramePlan

CAUSAL = {"full_attention": None, "sliding_attention": None}  # no mask is made; attention is causal by itself


class Student(VllmInputs, ABC):
    """A model with what is needed to feed it."""

    MODEL: ClassVar[Any]  # its class in transformers
    CHAT: ClassVar[type[ChatFormat]] = ChatFormat
    AXES: ClassVar[int] = 1  # of positions: 3 for M-RoPE (time, height, width)

    def __init__(self, model: Any, tokenizer: Any, processor: Any = None):
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self.chat = self.CHAT(tokenizer, self.merge)

    # Loading and saving.

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype | str = "float32", device: torch.device | str = "cpu") -> Self:
        """Load a folder of this family in training mode and prepare it."""
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        student = cls(cls.load_model(folder, dtype), cls.load_tokenizer(folder), cls.load_processor(folder))
        student.model.to(device).train()
        student.prepare()
        return student

    @classmethod
    def load_model(cls, folder: str | Path, dtype: torch.dtype) -> Any:
        """The model of a folder."""
        return cls.MODEL.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")

    @classmethod
    def load_tokenizer(cls, folder: str | Path) -> Any:
        """The tokenizer, with the chat template that the model was trained with."""
        return AutoTokenizer.from_pretrained(folder)

    @classmethod
    def load_processor(cls, folder: str | Path) -> Any:
        """Whatever `patches` needs to know of sizes and colours; None for text."""
        return None

    def save(self, folder: Path) -> None:
        """Write the weights into a folder that holds the other files already."""
        self.model.save_pretrained(folder)

    def prepare(self) -> None:
        """Turn on shared-prefix attention and lean layers in the language model; call it after a deep copy, too."""
        attention.register()
        make_lean(self.language_model)
        self.model.set_attn_implementation({"text_config": attention.NAME, "vision_config": "sdpa"})

    # A small one, built from nothing (`longrl.models.tiny`).

    TOKENS: ClassVar[tuple[str, ...]] = ()  # special tokens beside those of the Qwen-VL families
    TEXTS: ClassVar[tuple[str, ...]] = ()  # what its tokenizer learns from beside the corpus

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        """The configuration of a tiny model with this tokenizer."""
        raise StudentError(f"there is no tiny {cls.__name__}; set model.path or another model.family")

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        """What is saved beside the model: its processor, tokenizer included."""
        return tokenizer

    @classmethod
    def tiny_start(cls, model: Any, seed: int) -> None:
        """Change a tiny model's random weights before it is saved, as `longrl.models.tiny` explains."""
        del model, seed

    # Its parts and sizes.

    @property
    def language_model(self) -> Any:
        """The decoder without its head: embeddings in, hidden states out."""
        return self.model.model.language_model

    @property
    def text_config(self) -> Any:
        """The language model's configuration."""
        return self.language_model.config

    @property
    def head(self) -> Tensor:
        """The head's weights (vocabulary, H)."""
        return self.model.get_output_embeddings().weight

    def encoders(self) -> list[nn.Module]:
        """Modules whose weights decide what embeddings are: towers and projectors."""
        return [module for name in ("tower", "projector") for module in self.group(name)]

    @abstractmethod
    def group(self, name: str) -> list[nn.Module]:
        """The modules called `tower`, `projector` or `language`; disjoint, and nothing where a family has none."""

    def freeze(self, *names: str) -> None:
        """Leave groups as they are: no gradients for `tower`, `projector` or `language`."""
        for name in names:
            for module in self.group(name):
                module.requires_grad_(False)

    @property
    def trains_encoders(self) -> bool:
        """Whether embeddings change while training goes on."""
        return any(parameter.requires_grad for module in self.encoders() for parameter in module.parameters())

    @property
    def merge(self) -> int:
        """Patches along a side that become one token."""
        return 1

    @property
    def temporal(self) -> int:
        """Frames that become one temporal patch."""
        return 1

    @property
    def hidden_size(self) -> int:
        return self.text_config.hidden_size

    @property
    def width(self) -> int:
        """Width of a medium's embeddings."""
        return self.embedding_width(self.model.config)

    @classmethod
    def embedding_width(cls, config: Any) -> int:
        """Width of a medium's embeddings, from a Hugging Face configuration."""
        return config.get_text_config().hidden_size

    @property
    def heads(self) -> int:
        """Query heads of the language model."""
        return self.text_config.num_attention_heads

    @property
    def context(self) -> int:
        """Longest prompt and response, in tokens."""
        return self.text_config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    # From media to embeddings.

    def video(self, plan: FramePlan) -> Medium:
        """A video seen by this plan, as a prompt knows it. Raises `StudentError` when the family takes none."""
        raise StudentError(f"a {type(self).__name__} takes no video")

    def media(self, kind: Kind, plan: FramePlan) -> tuple[Medium, ...]:
        """What a prompt shows of a file by this plan: an image; a video, its sound, or both.

        Raises `StudentError` when the family takes no such thing.
        """
        if plan.audio is not None:
            raise StudentError(f"a {type(self).__name__} does not hear; set frames.audio=none, or take a Qwen2.5-Omni")
        return (self.medium(kind, plan),)

    def split(self, kind: Kind, plan: FramePlan, embeds: Tensor) -> tuple[Tensor, ...]:
        """The cached embeddings (tokens, W) of a plan, medium by medium."""
        return embeds.split([medium.tokens for medium in self.media(kind, plan)])

    def hear(self, sounds: Sequence[np.ndarray]) -> list[Tensor]:
        """Embed sounds, float32 (samples,) at 16 kHz: (tokens, W) each, differentiable."""
        raise StudentError(f"a {type(self).__name__} does not hear")

    def image(self, height: int, width: int) -> Medium:
        """An image of so many pixels. Raises `StudentError` when the family takes none."""
        raise StudentError(f"a {type(self).__name__} takes no images")

    def medium(self, kind: Kind, plan: FramePlan) -> Medium:
        """A medium of any kind seen by this plan: a video, or an image as a plan of one frame."""
        return self.video(plan) if kind == "video" else self.image(plan.height, plan.width)

    def patches(self, frames: np.ndarray | Tensor, kind: Kind = "video") -> tuple[Tensor, Grid]:
        """The tower's input of a video's frames, or of an image as one frame, and its grid.

        `frames`: uint8 (T, height, width, 3), RGB.
        """
        raise StudentError(f"a {type(self).__name__} takes no pictures")

    def encode(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
        """Embed several media of one kind in one call of the tower: (tokens, W) each, differentiable."""
        raise StudentError(f"a {type(self).__name__} takes no pictures")

    def patches_a_step(self, grid: Grid) -> int:
        """Patches that the tower sees of one temporal patch: what one call of it may hold is counted in them."""
        return grid[1] * grid[2]

    def closing(self) -> Tensor:
        """Embeddings (rows, W) that end a video, after its last temporal patch; none in most families."""
        return torch.empty(0, self.width, dtype=self.dtype, device=self.device)

    def tower_digest(self) -> str:
        """16 hex digits of sha256 over configurations and weights of all encoders; names embeddings in the cache."""
        digest = hashlib.sha256()
        for config, module in self.digested():
            told = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
            told.pop("transformers_version", None)
            digest.update(json.dumps(told, sort_keys=True, default=str).encode())
            for name, value in sorted(module.state_dict().items()):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def digested(self) -> list[tuple[Any, nn.Module]]:
        """The modules that `tower_digest` is made of, with their configurations."""
        return [(module.config, module) for module in self.encoders()]

    # From prompts to hidden states.

    def positions(self, prompt: Prompt, extra: int = 0) -> Tensor:
        """Positions (A, L + extra) of a prompt's expanded tokens and of `extra` response tokens after it."""
        parts, start = [], 0
        for part in (*prompt.opening, prompt.tail):
            if isinstance(part, Slot):
                block = self.spread(part) + start
            else:
                count = len(part) + (extra if part is prompt.tail else 0)
                block = (torch.arange(count) + start).expand(self.AXES, -1)
            if block.shape[1]:
                start = int(block.max()) + 1
            parts.append(block)
        return torch.cat(parts, 1)

    def spread(self, slot: Slot) -> Tensor:
        """Positions (A, tokens) of a slot's expanded tokens, counted from where the slot starts."""
        return torch.arange(len(slot.expanded)).expand(self.AXES, -1)

    def look_up(self, ids: Tensor) -> Tensor:
        """The language model's own embeddings of ids, (..., H); those of pads are not used."""
        return self.model.get_input_embeddings()(ids)

    def token_embeds(self, ids: Tensor, media: Mapping[int, Tensor] | None = None) -> Tensor:
        """Embeddings of ids (any shape, W added); each pad of `media` is replaced by its rows, in order.

        `media`: (number of pads, W) by pad. Without media the last dimension is H. Raises `ValueError` when the
        number of pads differs from that of rows.
        """
        embeds = self.look_up(ids)
        if not media:
            return embeds
        embeds = nn.functional.pad(embeds, (0, self.width - embeds.shape[-1]))
        for pad, rows in media.items():
            pads = ids == pad
            if int(pads.sum()) != rows.shape[0] or rows.shape[1] != embeds.shape[-1]:
                raise ValueError(
                    f"{int(pads.sum())} pads of width {embeds.shape[-1]} but embeddings {tuple(rows.shape)}: "
                    "the prompt was built with another grid than the medium was encoded with"
                )
            embeds = embeds.masked_scatter(pads[..., None], rows.to(embeds.dtype))
        return embeds

    def text_hidden(
        self, embeds: Tensor, position_ids: Tensor, layout: attention.Layout | None = None, cache: Any = None
    ) -> Tensor:
        """Run the language model on embeddings (B, L, W or H) at positions (A, B, L): hidden states (B, L, H), normed.

        Rows are causal and may be right-padded; with a `layout` they share a prefix (see `longrl.mrsp.attention`), with
        a `cache` of transformers they continue what it holds.
        """
        position_ids = position_ids.to(embeds.device)
        extra = self.language_inputs(embeds) | ({} if layout is None else {"layout": layout})
        return self.language_model(
            position_ids=position_ids if self.AXES > 1 else position_ids[0],
            past_key_values=cache,
            use_cache=cache is not None,
            **extra,
        ).last_hidden_state

    def language_inputs(self, embeds: Tensor) -> dict[str, Any]:
        """Keyword arguments of the language model for these embeddings (B, L, W or H)."""
        return {"inputs_embeds": embeds, "attention_mask": CAUSAL}
