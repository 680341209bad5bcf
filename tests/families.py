"""Tiny models of every family with random weights, and their own forward from pixels: the oracle of `longrl.models`.

Weights are large enough that attention is far from uniform, so a wrong position, mask or feature shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longrl.config import ModelSettings
from longrl.models.base import Student
from longrl.models.families import FAMILIES, class_of
from longrl.models.prompt import Medium, Prompt
from longrl.models.siglip import SiglipStudent
from longrl.models.tiny import SPECIAL, train_tokenizer

# Those whose pictures may have any size; the others are in test_vila and test_llava_onevision.
ANY_SIZE = {name: entry for name, entry in FAMILIES.items() if name.startswith("qwen")}
TEXTS = ["<think>the red ball moves left and then right.</think><answer>A</answer>", "Describe the video. - red (A)"]
SIZES = ModelSettings(
    hidden_size=128, layers=3, heads=4, feed_forward=256, vision_width=32, vision_depth=3, initializer_range=0.1
)


def build(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a model with two key heads, its tokenizer and its processor into `folder`, which is returned."""
    student = class_of(family)
    tokenizer = train_tokenizer([*TEXTS, *student.TEXTS], 480, SPECIAL + student.TOKENS)
    config = student.tiny_config(tokenizer, SIZES)
    config.get_text_config().num_key_value_heads = 2
    torch.manual_seed(seed)
    model = student.MODEL(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.ndim == 1:
                parameter.normal_(1, 0.1)
    model.save_pretrained(folder)
    student.tiny_processor(tokenizer).save_pretrained(folder)
    return folder


def noise(frames: int, height: int = 56, width: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


# What prompts show: (kind, frames, seconds between temporal patches).
SHOWN = {
    "text": [],
    "image": [("image", noise(1), 1.0)],
    "images": [("image", noise(1, seed=1), 1.0), ("image", noise(1, 28, 84, seed=2), 1.0)],
    "video": [("video", noise(8), 1.7)],
    "videos": [("video", noise(4, seed=3), 0.5), ("image", noise(1), 1.0), ("video", noise(6, 28, 84, seed=4), 3.0)],
}
CASES = [
    (family, modality)
    for family, entry in FAMILIES.items()
    for modality, shown in SHOWN.items()
    if {kind for kind, _, _ in shown} <= set(entry.kinds)
]


def look(student: Student, shown: Sequence[tuple[str, np.ndarray, float]]) -> tuple[list[Medium], tuple[Tensor, ...]]:
    """Media, given as (kind, frames, seconds between temporal patches), and their embeddings."""
    media, embeds = [], []
    for kind, frames, spacing in shown:
        if kind == "video" and isinstance(student, SiglipStudent):
            frames = noise(len(frames), student.side, student.side)  # its tower knows no other size
        pixels, grid = student.patches(frames, kind)
        with torch.no_grad():
            embeds += student.encode([pixels], [grid])
        size = frames.shape[1:3]
        media.append(student.chat.video(grid, spacing) if kind == "video" else student.image(*size))
    return media, tuple(embeds)


def own_logits(
    plain: Any,
    processor: Any,
    ids: Sequence[int],
    shown: Sequence[tuple[str, np.ndarray, float]],
    positions: Tensor | None = None,
) -> Tensor:
    """Logits (L, V) of transformers' own forward from pixels, cut by its own processors.

    Without `positions` (3, L) they are its own too.
    """
    row = torch.tensor([ids])
    if not shown:
        return plain(input_ids=row).logits[0]
    kinds = (row == plain.config.image_token_id) + 2 * (row == plain.config.video_token_id).long()
    inputs: dict[str, Any] = {"mm_token_type_ids": kinds.int()}
    if "omni" in plain.config.model_type:
        spacings = torch.tensor([spacing for kind, _, spacing in shown if kind == "video"])
        inputs = {"attention_mask": torch.ones_like(row), "video_second_per_grid": spacings}
    pictures = [frames.transpose(0, 3, 1, 2) for kind, frames, _ in shown if kind == "image"]
    if pictures:
        whole = [torch.from_numpy(each[0]) for each in pictures]
        inputs |= processor.image_processor(whole, do_resize=False, return_tensors="pt")
    films = [torch.from_numpy(frames.transpose(0, 3, 1, 2)) for kind, frames, _ in shown if kind == "video"]
    if films:
        inputs |= processor.video_processor(films, do_resize=False, do_sample_frames=False, return_tensors="pt")
    plain.model.rope_deltas = None
    place = {} if positions is None else {"position_ids": positions[:, None]}
    return plain(input_ids=row, **inputs, **place).logits[0]


def logprobs_of(logits: Tensor, prompt: Prompt, response: Sequence[int]) -> Tensor:
    """Logprobs of the response's tokens (R,)."""
    scores = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
    return scores.gather(1, torch.tensor(response)[:, None])[:, 0]
