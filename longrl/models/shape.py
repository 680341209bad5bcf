"""The sizes of a model, from its configuration alone: parameters and arithmetic, without loading torch.

Arithmetic is counted in FLOP, two for each multiply-add; causal attention counts the half that is computed. Backward
is twice the forward for matrices and 2.5 times for attention, which recomputes its scores (Dao 2023, arXiv:2307.08691).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrl.config import ModelSettings
from longrl.errors import LongrlError
from longrl.models import towers
from longrl.models.published import PUBLISHED
from longrl.models.towers import TOWERS, Tower

SIGLIP = ("vila", "llava_llama", "llava_onevision")  # families whose parts have configurations of their own
KNOWN = (*TOWERS, "qwen2", "qwen3")  # families, by model_type


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
    """Sizes of a language model of Qwen's kind, and of the tower before it."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool  # the head is the embedding
    tower: Tower | None = None  # None: text alone
    head: int = 0  # width of one attention head; 0: hidden / heads
    biases: int = 0  # of a layer's attention: numbers
    head_norms: bool = False  # queries and keys are normed head by head (Qwen3)
    ears: int = 0  # parameters of the tower of sound
    sound_rate: int = 0  # tokens of a second of sound

    def __post_init__(self) -> None:
        if not self.head:
            object.__setattr__(self, "head", self.hidden // self.heads)

    @property
    def query_width(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head

    @property
    def key_width(self) -> int:
        """Width of all keys of a token."""
        return self.key_heads * self.head

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of one layer's matrices, by the names that `lora.target_modules` uses."""
        H, Q, K, F = self.hidden, self.query_width, self.key_width, self.feed_forward
        attention = {"q_proj": (H, Q), "k_proj": (H, K), "v_proj": (H, K), "o_proj": (Q, H)}
        return attention | {"gate_proj": (H, F), "up_proj": (H, F), "down_proj": (F, H)}

    @property
    def layer_matrices(self) -> int:
        """Weights of one layer's matrices."""
        return sum(inputs * outputs for inputs, outputs in self.linear_layers.values())

    @property
    def text_parameters(self) -> int:
        """Parameters of the language model, its embedding and its head."""
        norms = 2 * self.hidden + (2 * self.head if self.head_norms else 0)
        layer = self.layer_matrices + self.biases + norms
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Parameters of the adapters of this rank at these of `linear_layers`: two thin matrices each."""
        return self.layers * rank * sum(sum(self.linear_layers[name]) for name in targets)

    @property
    def tower_parameters(self) -> int:
        """Parameters of the vision tower with its projector, and of the tower of sound."""
        return (self.tower.parameters if self.tower else 0) + self.ears

    @property
    def parameters(self) -> int:
        return self.text_parameters + self.tower_parameters

    @property
    def embedding_width(self) -> int:
        """Numbers that the cache keeps of a video token."""
        return self.hidden * (self.tower.outputs if self.tower else 1)

    def patches(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Patches of a video of this many frames and pixels, and those of one temporal patch; none without a tower."""
        if self.tower is None:
            return 0, 0
        spatial = self.tower.spatial(height, width)
        pictures = self.tower.temporal if self.tower.single else 1
        return -(-frames // self.tower.temporal) * pictures * spatial, spatial

    def video_tokens(self, frames: int, height: int, width: int) -> int:
        """Tokens that the language model sees of a video."""
        return -(-frames // self.tower.temporal) * self.tower.tokens(height, width) if self.tower else 0

    def stamps(self, frames: int) -> int:
        """Tokens of text that a prompt spends on the times of a video of so many frames."""
        return self.tower.stamp * -(-frames // self.tower.temporal) if self.tower else 0

    def encode(self, frames: int, height: int, width: int) -> Flops:
        """One video through the vision tower."""
        if self.tower is None:
            return Flops(0.0, 0.0)
        patches, spatial = self.patches(frames, height, width)
        window = min(spatial, (self.tower.window // self.tower.patch) ** 2)
        seen = self.tower.full_blocks * spatial + (self.tower.depth - self.tower.full_blocks) * window
        return Flops(2 * patches * self.tower.patch_weights, 4 * patches * seen * self.tower.width)

    def prefill(self, prompt: int) -> Flops:
        """A forward over a prompt without the head."""
        return self.row(prompt, 0)

    def row(self, prompt: int, response: int) -> Flops:
        """A forward of a prompt and one response, all layers computed whole, the head on response tokens only."""
        lean, unread = self.group(prompt, 1, response), 2 * prompt * 3 * self.hidden * self.feed_forward
        return Flops(lean.matrices + unread, lean.attention + 2 * prompt**2 * self.query_width)

    def group(self, prompt: int, responses: int, response: int) -> Flops:
        """A forward of one prompt with its responses as `longrl.mrsp` computes it: the prompt once, its own attention
        and feed-forward part in all layers but the last, and the head on response tokens only."""
        tokens = prompt + responses * response
        pairs = responses * (response * prompt + response**2 / 2)
        own = prompt**2 / 2 * (self.layers - 1)
        matrices = 2 * (tokens * self.layers * self.layer_matrices - prompt * 3 * self.hidden * self.feed_forward)
        head = 2 * responses * response * self.vocabulary * self.hidden
        return Flops(matrices + head, 4 * (pairs * self.layers + own) * self.query_width)


def shape_of(model: ModelSettings) -> Shape:
    """The shape of a recipe's student: of its folder, of a published model of that name, or of the tiny one.

    Raises `ShapeError` when `model.path` is neither there nor published.
    """
    if not model.path:
        return from_config(tiny(model))
    path = Path(model.path).expanduser()
    if (path / "config.json").is_file():
        return from_config(json.loads((path / "config.json").read_text()))
    if path.name in PUBLISHED:
        return from_config(PUBLISHED[path.name])
    raise ShapeError(
        f"model.path={model.path} has no config.json, and no published model is called {path.name!r} "
        f"(known: {', '.join(PUBLISHED)}); download the folder or at least its config.json"
    )


def tiny(model: ModelSettings) -> dict[str, Any]:
    """What decides sizes in the configuration of a tiny model of any family (`longrl.models.tiny`)."""
    width, depth = model.vision_width, model.vision_depth
    tower = {
        "depth": depth,
        "hidden_size": model.hidden_size if model.family == "qwen2_vl" else width,
        "embed_dim": width,
        "mlp_ratio": 2,
        "intermediate_size": 2 * width,
        "out_hidden_size": model.hidden_size,
        "fullatt_block_indexes": range(depth),
        "deepstack_visual_indexes": range(depth - 1),
        "num_position_embeddings": 64,
        "window_size": 112,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    text = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "vocab_size": -(-model.vocabulary // 64) * 64,
        "tie_word_embeddings": True,
    }
    if model.family == "qwen2_5_omni":
        ears = {"d_model": width, "encoder_layers": 1, "encoder_ffn_dim": 2 * width, "output_dim": model.hidden_size}
        sound = {"audio_config": ears | {"num_mel_bins": 16}, "position_id_per_seconds": 2}
        return {"model_type": "qwen2_5_omni_thinker", **text, **sound, "vision_config": tower}
    if model.family in SIGLIP:
        seen = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth + 1, "patch_size": 14}
        seen |= {"image_size": 56, "vision_use_head": False}
        if model.family == "llava_onevision":
            return {"model_type": model.family, "text_config": text, "vision_config": seen, "vision_feature_layer": -2}
        projector, video = {"mm_projector_type": "mlp_downsample_2x2_fix"}, {"pool_sizes": [[2, 1, 1]]}
        parts = {"llm_cfg": text, "vision_tower_cfg": seen, "mm_projector_cfg": projector, "video_encoder": video}
        return {"model_type": model.family, **parts}
    return {"model_type": model.family, **text, "vision_config": tower}


def joined_parts(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of the families with a SigLIP tower, as `towers` and `from_config` read it."""
    text = config.get("text_config") or config["llm_cfg"]
    vision = config.get("vision_config") or config["vision_tower_cfg"]
    chosen = config.get("mm_vision_select_layer", -2) if "llm_cfg" in config else config.get("vision_feature_layer", -1)
    video = config.get("video_encoder") or "{}"
    pools = (json.loads(video) if isinstance(video, str) else video).get("pool_sizes", [[1, 1, 1]])
    joined = {
        "layers": chosen if chosen >= 0 else vision["num_hidden_layers"] + 1 + chosen,
        "projector": (config.get("mm_projector_cfg") or {}).get("mm_projector_type", ""),
        "scales": len(config["s2_scales"].split(",")) if config.get("dynamic_s2") else 1,
        "temporal": pools[0][0],
        "out_hidden_size": text["hidden_size"],
    }
    tied = {"tie_word_embeddings": text.get("tie_word_embeddings", False)}
    return config | {"text_config": text, "vision_config": vision | joined} | tied


def from_config(config: dict[str, Any]) -> Shape:
    """The shape that a Hugging Face configuration describes; some keep the text's sizes at the top level.

    Raises `ShapeError` for a family whose sizes are not known here.
    """
    config = config.get("thinker_config") or config  # of a Qwen2.5-Omni
    kind = config.get("model_type", "qwen2_5_vl")
    if kind not in KNOWN:
        raise ShapeError(f"the sizes of a {kind!r} model are not known to the plan (known: {', '.join(KNOWN)})")
    if kind in SIGLIP:
        config = joined_parts(config)
    text = config.get("text_config") or config
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    key_heads, head = text.get("num_key_value_heads") or heads, text.get("head_dim") or hidden // heads
    third, qkv = kind.startswith("qwen3"), (heads + 2 * key_heads) * head
    return Shape(
        layers=text["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        key_heads=key_heads,
        feed_forward=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        tower=TOWERS[kind](config["vision_config"]) if kind in TOWERS else None,
        head=head,
        biases=(qkv + hidden if text.get("attention_bias") else 0) if third else qkv,
        head_norms=third,
        ears=towers.ears(config["audio_config"]) if "audio_config" in config else 0,
        sound_rate=config.get("position_id_per_seconds", 0) if "audio_config" in config else 0,
    )
