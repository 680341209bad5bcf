"""The sizes of a Qwen2.5-VL, from its configuration alone: parameters and arithmetic, without loading torch.

Arithmetic is counted in FLOP, two for each multiply-add; causal attention counts the half that is computed. Backward
is twice the forward for matrices and 2.5 times for attention, which recomputes its scores (Dao 2023, arXiv:2307.08691).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrl.config import ModelSettings
from longrl.errors import LongrlError

_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_TEXT = {
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}

# Published configurations (config.json of the Hugging Face repositories), by the folder's name.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B-Instruct": {
        "text_config": _TEXT
        | {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
        "vision_config": _TOWER | {"out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "Qwen2.5-VL-7B-Instruct": {
        "text_config": _TEXT
        | {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "tie_word_embeddings": False,
        },
        "vision_config": _TOWER | {"out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
}


KNOWN = ("qwen2_5_vl",)  # families, by model_type


class ShapeError(LongrlError):
    """A model's sizes cannot be known; the message names the folder."""


@dataclass(frozen=True)
class Flops:
    """Arithmetic of one pass over some tokens."""

    matrices: float
    attention: float

    @property
    def forward(self) -> float:
        return self.matrices + self.attention

    def training(self, recompute: bool = False) -> float:
        """Forward and backward; with activation checkpointing the forward runs twice."""
        return self.matrices * (3 + recompute) + self.attention * (3.5 + recompute)


@dataclass(frozen=True)
class Shape:
    """Sizes of the language model, then of the vision tower."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool  # the head is the embedding
    depth: int
    width: int
    tower_feed_forward: int
    full_blocks: int  # blocks of the tower that see a whole frame; the others see windows
    window: int = 112  # pixels
    patch: int = 14
    merge: int = 2
    temporal: int = 2

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def key_width(self) -> int:
        """Width of all keys of a token."""
        return self.key_heads * self.head

    @property
    def layer_matrices(self) -> int:
        """Weights of one layer's matrices."""
        return self.hidden * (2 * self.hidden + 2 * self.key_width + 3 * self.feed_forward)

    @property
    def text_parameters(self) -> int:
        """Parameters of the language model, its embedding and its head."""
        layer = self.layer_matrices + 3 * self.hidden + 2 * self.key_width
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def tower_parameters(self) -> int:
        """Parameters of the vision tower with its merger."""
        block = self._block_matrices + 4 * self.width + 2 * self.tower_feed_forward + self.width + 2 * self.width
        four = self.merge**2 * self.width
        return (
            self.depth * block
            + self._patch_values * self.width
            + self._merger_matrices
            + self.width
            + four
            + self.hidden
        )

    @property
    def parameters(self) -> int:
        return self.text_parameters + self.tower_parameters

    @property
    def _block_matrices(self) -> int:
        return 4 * self.width**2 + 3 * self.width * self.tower_feed_forward

    @property
    def _merger_matrices(self) -> int:
        four = self.merge**2 * self.width
        return four * (four + self.hidden)

    @property
    def _patch_values(self) -> int:
        return 3 * self.temporal * self.patch**2

    def patches(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Patches of a video of this many frames and pixels, and those of one temporal patch."""
        spatial = (height // self.patch) * (width // self.patch)
        return -(-frames // self.temporal) * spatial, spatial

    def video_tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens that the language model sees of a video."""
        return self.patches(frames, height, width)[0] // self.merge**2

    def encode(self, frames: int, height: int, width: int) -> Flops:
        """One video through the vision tower."""
        patches, spatial = self.patches(frames, height, width)
        window = min(spatial, (self.window // self.patch) ** 2)
        seen = self.full_blocks * spatial + (self.depth - self.full_blocks) * window
        weights = self.depth * self._block_matrices + self._patch_values * self.width
        weights_merged = self._merger_matrices / self.merge**2
        return Flops(2 * patches * (weights + weights_merged), 4 * patches * seen * self.width)

    def prefill(self, prompt: int) -> Flops:
        """A forward over a prompt without the head."""
        return self.row(prompt, 0)

    def row(self, prompt: int, response: int) -> Flops:
        """A forward of a prompt and one response, with the head on response tokens only."""
        lean = self.group(prompt, 1, response)
        return Flops(lean.matrices, lean.attention + 2 * prompt**2 * self.hidden)

    def group(self, prompt: int, responses: int, response: int) -> Flops:
        """A forward of one prompt with its responses as `longrl.mrsp` computes it: the prompt once, its own attention
        in all layers but the last, and the head on response tokens only."""
        tokens = prompt + responses * response
        pairs = responses * (response * prompt + response**2 / 2)
        own = prompt**2 / 2 * (self.layers - 1)
        matrices = 2 * tokens * self.layers * self.layer_matrices
        head = 2 * responses * response * self.vocabulary * self.hidden
        return Flops(matrices + head, 4 * (pairs * self.layers + own) * self.hidden)


def shape_of(model: ModelSettings) -> Shape:
    """The shape of a recipe's student: of its folder, of a published model of that name, or of the tiny one.

    Raises `ShapeError` when `model.path` is neither there nor published.
    """
    if not model.path:
        return Shape(
            layers=model.layers,
            hidden=model.hidden_size,
            heads=model.heads,
            key_heads=model.heads,
            feed_forward=model.feed_forward,
            vocabulary=-(-model.vocabulary // 64) * 64,
            tied=True,
            depth=model.vision_depth,
            width=model.vision_width,
            tower_feed_forward=2 * model.vision_width,
            full_blocks=model.vision_depth,
        )
    path = Path(model.path).expanduser()
    if (path / "config.json").is_file():
        return from_config(json.loads((path / "config.json").read_text()))
    if path.name in PUBLISHED:
        return from_config(PUBLISHED[path.name])
    raise ShapeError(
        f"model.path={model.path} has no config.json, and no published model is called {path.name!r} "
        f"(known: {', '.join(PUBLISHED)}); download the folder or at least its config.json"
    )


def from_config(config: dict[str, Any]) -> Shape:
    """The shape that a Hugging Face configuration describes; published ones keep the text's sizes at the top level.

    Raises `ShapeError` for a family whose sizes are not known here.
    """
    kind = config.get("model_type", "qwen2_5_vl")
    if kind not in KNOWN:
        raise ShapeError(f"the sizes of a {kind!r} model are not known to the plan (known: {', '.join(KNOWN)})")
    text, tower = config.get("text_config") or config, config["vision_config"]
    return Shape(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        heads=text["num_attention_heads"],
        key_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
        feed_forward=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        depth=tower["depth"],
        width=tower["hidden_size"],
        tower_feed_forward=tower["intermediate_size"],
        full_blocks=len(tower["fullatt_block_indexes"]),
        window=tower["window_size"],
        patch=tower["patch_size"],
        merge=tower["spatial_merge_size"],
        temporal=tower["temporal_patch_size"],
    )
