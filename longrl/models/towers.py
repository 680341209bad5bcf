"""The sizes of vision towers with their projectors, from their configurations alone. Loads no torch.

A family's tower is one function from `vision_config` to a `Tower`; `TOWERS` maps `model_type` to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Tower:
    """A vision tower and its projector."""

    parameters: int  # of both
    projector: int  # parameters of the projector alone
    depth: int
    width: int
    patch_weights: float  # multiply-adds that one patch takes in matrices, its share of the projector's among them
    full_blocks: int  # blocks that see a whole temporal patch; the others see windows
    window: int  # pixels along a side
    patch: int = 14  # pixels along a side
    merge: int = 2  # patches along a side that become one token
    temporal: int = 2  # frames that become one temporal patch
    outputs: int = 1  # embeddings of the language model's width that a token has
    stamp: int = 0  # text tokens that a prompt spends on each temporal patch
    single: bool = False  # every frame goes through the tower by itself
    fills: bool = False  # sides that `merge` does not divide are filled up, not cut

    def spatial(self, height: int, width: int) -> int:
        """Patches of a frame of so many pixels."""
        rows, columns = height // self.patch, width // self.patch
        if self.fills:
            return rows * columns
        return (rows // self.merge) * (columns // self.merge) * self.merge**2

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a temporal patch."""
        sides = (height // self.patch, width // self.patch)
        rows, columns = (-(-side // self.merge) if self.fills else side // self.merge for side in sides)
        return rows * columns


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with a bias."""
    return inputs * outputs + outputs


def qwen2_5_vl(config: dict[str, Any]) -> Tower:
    """RMS norms, gated feed-forward parts with biases, windows in most blocks, one merger."""
    width, between, depth = config["hidden_size"], config["intermediate_size"], config["depth"]
    patch, merge, temporal = config["patch_size"], config["spatial_merge_size"], config["temporal_patch_size"]
    values, four = 3 * temporal * patch**2, merge**2 * width
    matrices = 4 * width**2 + 3 * width * between
    block = 2 * width + linear(width, 3 * width) + linear(width, width)
    block += 2 * linear(width, between) + linear(between, width)
    merger = width + linear(four, four) + linear(four, config["out_hidden_size"])
    return Tower(
        parameters=depth * block + values * width + merger,
        projector=merger,
        depth=depth,
        width=width,
        patch_weights=depth * matrices + values * width + four * (four + config["out_hidden_size"]) / merge**2,
        full_blocks=len(config["fullatt_block_indexes"]),
        window=config["window_size"],
        patch=patch,
        merge=merge,
        temporal=temporal,
    )


def qwen2_vl(config: dict[str, Any]) -> Tower:
    """Layer norms, plain feed-forward parts, full attention, one merger."""
    width, out, depth = config["embed_dim"], config["hidden_size"], config["depth"]
    between = int(width * config["mlp_ratio"])
    patch, merge, temporal = config["patch_size"], config["spatial_merge_size"], config["temporal_patch_size"]
    values, four = 3 * temporal * patch**2, merge**2 * width
    block = 4 * width + linear(width, 3 * width) + linear(width, width)
    block += linear(width, between) + linear(between, width)
    merger = 2 * width + linear(four, four) + linear(four, out)
    return Tower(
        parameters=depth * block + values * width + merger,
        projector=merger,
        depth=depth,
        width=width,
        patch_weights=depth * (4 * width**2 + 2 * width * between) + values * width + four * (four + out) / merge**2,
        full_blocks=depth,
        window=0,
        patch=patch,
        merge=merge,
        temporal=temporal,
    )


def qwen3_vl(config: dict[str, Any]) -> Tower:
    """Layer norms, plain feed-forward parts, learned positions, full attention, a merger more for each deepstack level.

    A prompt names the time of each temporal patch: "<12.5 seconds>" between marks, about 10 tokens.
    """
    width, between, depth = config["hidden_size"], config["intermediate_size"], config["depth"]
    patch, merge, temporal = config["patch_size"], config["spatial_merge_size"], config["temporal_patch_size"]
    values, four, out = 3 * temporal * patch**2, merge**2 * width, config["out_hidden_size"]
    levels = len(config["deepstack_visual_indexes"])
    matrices = 4 * width**2 + 2 * width * between
    block = 4 * width + linear(width, 3 * width) + linear(width, width)
    block += linear(width, between) + linear(between, width)
    merger = linear(four, four) + linear(four, out)
    mergers = (1 + levels) * merger + 2 * width + levels * 2 * four  # the norms after the shuffle are four times wide
    return Tower(
        parameters=depth * block + linear(values, width) + config["num_position_embeddings"] * width + mergers,
        projector=mergers,
        depth=depth,
        width=width,
        patch_weights=depth * matrices + values * width + (1 + levels) * four * (four + out) / merge**2,
        full_blocks=depth,
        window=0,
        patch=patch,
        merge=merge,
        temporal=temporal,
        outputs=1 + levels,
        stamp=10,
    )


def siglip(config: dict[str, Any], layers: int, projector: int, patch_weights: float, **sizes: Any) -> Tower:
    """A SigLIP tower of which so many layers are run, with a projector of so many parameters, which takes so many
    multiply-adds a patch."""
    width, between, depth = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    values, places = 3 * config["patch_size"] ** 2, (config["image_size"] // config["patch_size"]) ** 2
    block = 4 * width + 4 * linear(width, width) + linear(width, between) + linear(between, width)
    parameters = depth * block + linear(values, width) + places * width + 2 * width
    if config.get("vision_use_head", True):  # pools with attention; kept, never run
        parameters += width + 4 * linear(width, width) + 2 * width + linear(width, between) + linear(between, width)
    return Tower(
        parameters=parameters + projector,
        projector=projector,
        depth=layers,
        width=width,
        patch_weights=layers * (4 * width**2 + 2 * width * between) + values * width + patch_weights,
        full_blocks=layers,
        window=0,
        patch=config["patch_size"],
        single=True,
        fills=True,
        **sizes,
    )


def vila(config: dict[str, Any]) -> Tower:
    """A SigLIP tower read before its last layer, patches side by side in the projector, a newline for each step.

    `config` is the tower's, with `layers`, `projector` (its type), `scales`, `temporal` (frames averaged) and
    `out_hidden_size` of the rest.
    """
    out, rate = config["out_hidden_size"], 3 if "3x3" in config["projector"] else 2
    side = config["hidden_size"] * config["scales"]
    wide, widths = rate**2 * side, [rate**2 * side, out, out]
    if rate == 3:
        widths.insert(1, 3 * side)
    pairs = list(pairwise(widths))
    norms = 2 * wide + (2 * 3 * side if rate == 3 else 0)
    return siglip(
        config,
        config["layers"],
        norms + sum(linear(*pair) for pair in pairs),
        sum(a * b for a, b in pairs) / rate**2,
        merge=rate,
        temporal=config["temporal"],
        stamp=1,
    )


def llava_onevision(config: dict[str, Any]) -> Tower:
    """A SigLIP tower, two layers on each patch, frames scaled down to half their side afterwards."""
    width, out = config["hidden_size"], config["out_hidden_size"]
    projector = linear(width, out) + linear(out, out) + out  # and the newline
    return siglip(config, config["layers"], projector, width * out + out**2, merge=2, temporal=1)


def ears(config: dict[str, Any]) -> int:
    """Parameters of Qwen2.5-Omni's tower of sound: two convolutions, layers of attention, a projection."""
    width, between, out = config["d_model"], config["encoder_ffn_dim"], config["output_dim"]
    convolutions = 3 * width * (config["num_mel_bins"] + width) + 2 * width
    layer = 4 * width**2 + 3 * width + linear(width, between) + linear(between, width) + 4 * width
    return convolutions + config["encoder_layers"] * layer + 2 * width + linear(width, out) + 2 * out


TOWERS: dict[str, Callable[[dict[str, Any]], Tower]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen2_5_omni_thinker": qwen2_5_vl,
    "vila": vila,
    "llava_llama": vila,
    "llava_onevision": llava_onevision,
}
