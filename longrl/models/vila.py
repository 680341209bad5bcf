"""The VILA series (NVILA, LongVILA): every frame is a picture of its own, and ends with a newline.

What is special about it:
1. A video's tokens are those of its frames one after another, each followed by the language model's own embedding of
   "\\n" (the published `BasicVideoEncoder`). With `TSPVideoEncoder` the frames' embeddings are first averaged in groups
   (NVILA, arXiv:2412.04468, section 2.1). Newlines are tokens of the prompt here, not part of the embeddings: what is
   cached does not depend on the language model, which goes on learning in RL.
2. Positions are one-dimensional: the language model is a plain Qwen2.
3. vLLM has no VILA. Its engine runs on the folder's `llm/` and takes text by id and media by embedding.
4. Pads may lie outside the published embedding matrix; they are never looked up.

Shapes: T frames, P pixels along a side, n tokens along a side, H hidden.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2Config, SiglipImageProcessor

from longrl.config import ModelSettings
from longrl.models.chat import ChatFormat
from longrl.models.families import StudentError
from longrl.models.prompt import Grid, Kind, Medium, Slot
from longrl.models.siglip import TINY_SIDE, SiglipStudent, start_siglip, tiny_tower
from longrl.models.tiny import start_attention, text_sizes
from longrl.models.vila_model import Vila, VilaConfig
from longrl.mrsp import attention
from longrl.mrsp.lean import make_lean
from longrl.video.sample import FramePlan

TEMPLATES = {  # by the configuration's `chat_template`; the published code replaces the tokenizer's own by these
    "qwen2": "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
}


class VilaChat(ChatFormat):
    """A medium is its pictures, each between `start` and `end`; nothing stands around the whole."""

    PADS: ClassVar = {"video": "<vila/video>", "image": "<image>"}
    MARKS = ()

    def __init__(self, tokenizer: Any, merge: int = 2):
        super().__init__(tokenizer, merge)
        newline = tuple(self.encode("\n"))
        self.around: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = dict.fromkeys(self.PADS, ((), newline))

    def special(self, token: str) -> int:
        if token in self.PADS.values():  # published tokenizers may lack them: the published code adds them on loading
            self.tokenizer.add_tokens([token], special_tokens=True)
        return super().special(token)

    def slot(self, *media: Medium) -> tuple[tuple[int, ...], Slot, tuple[int, ...]]:
        (medium,) = media
        pad, (start, end), pictures = self.pads[medium.kind], self.around[medium.kind], medium.grid[0]
        picture = (*start, *(pad,) * (medium.tokens // pictures), *end)
        return (), Slot(media, (pad,), (pad,), picture * pictures), ()

    def _tokens(self, grid: Sequence[int]) -> int:
        t, h, w = (int(n) for n in grid)
        return t * -(-h // self.merge) * -(-w // self.merge)


class VILA(SiglipStudent):
    """A VILA with a SigLIP tower and a Qwen2, in the published layout (see `longrl.models.vila_model`)."""

    MODEL = Vila
    CHAT = VilaChat
    KINDS: ClassVar[tuple[Kind, ...]] = ("video", "image")
    VLLM_FOLDER = "llm"
    chat: VilaChat

    def __init__(self, model: Vila, tokenizer: Any, processor: Any = None):
        self._temporal = 1
        super().__init__(model, tokenizer, processor)
        for kind in ("video", "image"):
            encoder = published_encoder(model.config.told, kind)
            start, end = (encoder.get(name) or "" for name in ("start_tokens", "end_tokens"))
            self.chat.around[kind] = tuple(self.chat.encode(start)), tuple(self.chat.encode(end))
            if kind == "video":
                self._temporal = encoder["temporal"]

    @classmethod
    def load_tokenizer(cls, folder: str | Path) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / cls.VLLM_FOLDER)
        if name := json.loads((Path(folder) / "config.json").read_text()).get("chat_template"):
            tokenizer.chat_template = named_template(Path(folder), name)
        return tokenizer

    @classmethod
    def load_processor(cls, folder: str | Path) -> Any:
        """The image processor: sizes and colours."""
        return AutoImageProcessor.from_pretrained(Path(folder) / "vision_tower")

    def prepare(self) -> None:
        attention.register()
        make_lean(self.language_model)
        self.model.llm.set_attn_implementation(attention.NAME)

    TOKENS: ClassVar = ("<vila/video>", "<image>")

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> VilaConfig:
        """Frames of 56 x 56 pixels, averaged in pairs: four tokens and a newline for each pair."""
        told = {
            "model_type": "vila",
            "architectures": ["VILAForCausalLM"],
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "cls_patch",
            "image_aspect_ratio": "resize",
            "resume_path": "./vlm",  # whatever it says: without it the published code starts from random weights
            "video_encoder": '{"_target_": "llava.model.encoders.TSPVideoEncoder", "pool_sizes": [[2, 1, 1]]}',
        }
        text, vision = Qwen2Config(**text_sizes(tokenizer, settings, axes=1)), tiny_tower(settings)
        return VilaConfig(text, vision, "mlp_downsample_2x2_fix", told)

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        return VilaProcessor(tokenizer, SiglipImageProcessor(size={"height": TINY_SIDE, "width": TINY_SIDE}))

    @classmethod
    def tiny_start(cls, model: Vila, seed: int) -> None:
        start_attention(model.llm.model, seed)
        start_siglip(model.vision_tower, seed + 1)
        random = torch.Generator().manual_seed(seed + 2)
        for layer in model.mm_projector.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=model.config.text.initializer_range, generator=random)

    @property
    def tower(self) -> Any:
        return self.model.vision_tower

    @property
    def language_model(self) -> Any:
        return self.model.llm.model

    def group(self, name: str) -> list[nn.Module]:
        parts = {"tower": [self.model.vision_tower], "projector": [self.model.mm_projector]}
        return parts.get(name, [self.model.llm])

    @property
    def merge(self) -> int:
        return self.model.mm_projector.rate

    @property
    def temporal(self) -> int:
        return self._temporal

    @property
    def context(self) -> int:
        rope = self.text_config.rope_parameters or {}  # long contexts are published as scaled positions
        factor = rope.get("factor", 1.0) if rope.get("rope_type") == "linear" else 1.0
        return int(self.text_config.max_position_embeddings * factor)

    def video(self, plan: FramePlan) -> Medium:
        self.check_size(plan.height, plan.width)
        grid = self.grid(-(-len(plan.times) // self.temporal))
        return self.chat.video(grid, plan.second_per_grid)

    def image(self, height: int, width: int) -> Medium:
        return self.chat.image(self.grid(1))

    def patches(self, frames: np.ndarray | Tensor, kind: Kind = "video") -> tuple[Tensor, Grid]:
        """As every SigLIP tower's; an image of another size is squeezed to its own (`image_aspect_ratio: resize`)."""
        if kind == "image" and frames.shape[1:3] != (self.side, self.side):
            picture = Image.fromarray(np.asarray(frames[0])).resize((self.side, self.side), Image.Resampling.BICUBIC)
            frames = np.asarray(picture)[None]
        return super().patches(frames, kind)

    def encode(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> list[Tensor]:
        """Embed videos or images: one (t * n², H) each."""
        seen = self.model.see(torch.cat(list(pixels))).split([len(x) for x in pixels])
        return [x.unflatten(0, (t, -1)).mean(1).flatten(0, 1) for x, (t, _, _) in zip(seen, grids, strict=True)]

    def tower_digest(self) -> str:
        """As everywhere, and over what the top-level configuration says of embeddings."""
        told = [super().tower_digest(), self.model.layers_used, self.model.config.scales, self.temporal]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def look_up(self, ids: Tensor) -> Tensor:
        return super().look_up(ids.masked_fill(ids >= self.text_config.vocab_size, 0))

    @classmethod
    def vllm_options(cls) -> dict[str, Any]:
        return {"enable_prompt_embeds": True}

    @classmethod
    def vllm_weights(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("llm."): value.detach() for name, value in state.items() if name.startswith("llm.")}


@dataclass
class VilaProcessor:
    """Tokenizer and image processor, each of which has its own place in the published layout."""

    tokenizer: Any
    images: Any

    def save_pretrained(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(Path(folder) / "llm")
        self.images.save_pretrained(Path(folder) / "vision_tower")


def published_encoder(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What `image_encoder` or `video_encoder` of a config.json asks for; `temporal` counts the frames averaged.

    >>> published_encoder({"video_encoder": '{"_target_": "llava.model.encoders.TSPVideoEncoder", '
    ...     '"pool_sizes": [[8, 1, 1]]}'}, "video")
    {'end_tokens': '\\n', 'temporal': 8}
    """
    told = config.get(f"{kind}_encoder") or {}
    told = dict(json.loads(told) if isinstance(told, str) else told)
    name = str(told.pop("_target_", f"Basic{kind.title()}Encoder")).rpartition(".")[2]
    pools = told.pop("pool_sizes", [[1, 1, 1]])
    known = name == f"Basic{kind.title()}Encoder" or (name == "TSPVideoEncoder" and kind == "video")
    if not known or len(pools) != 1 or list(pools[0][1:]) != [1, 1] or told.get("sep_tokens"):
        raise StudentError(
            f"config.json has {kind}_encoder {config[f'{kind}_encoder']!r}; known are BasicImageEncoder, "
            "BasicVideoEncoder and TSPVideoEncoder with one temporal pool"
        )
    return {"end_tokens": "\n"} | told | {"temporal": pools[0][0]}


def named_template(folder: Path, name: str) -> str:
    """The chat template that config.json names: a file of the folder, or a published one."""
    path = folder / f"{name}.jinja"
    if path.is_file():
        return path.read_text().replace("    ", "").replace("\n", "")  # as published: line breaks are written \\n
    if name not in TEMPLATES:
        raise StudentError(f"{folder}/config.json names the chat template {name!r}, but {path} is not there")
    return TEMPLATES[name]
