"""A Qwen2.5-VL of half a million random weights as a Hugging Face folder, for tests of the engine rooms.

Its weights are large enough that attention is far from uniform, so a wrong position or mask shows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from longrl.models.chat import PLAIN

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
TEXTS = ["<think>the red ball moves left and then right.</think><answer>A</answer>", "Describe the video. - red (A)"]


def build_student(
    folder: Path,
    hidden: int = 128,
    layers: int = 2,
    heads: int = 4,
    key_heads: int = 2,
    spread: float = 0.12,
    seed: int = 0,
) -> Path:
    """Write model, tokenizer and processor into `folder` and return it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    half = hidden // heads // 2
    rope = {
        "rope_type": "default",
        "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
        "rope_theta": 1e3,
    }
    config = Qwen2_5_VLConfig(
        text_config=dict(  # noqa: C408
            vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=32768,
            rope_parameters=rope, initializer_range=spread, bos_token_id=0,
            eos_token_id=ids["<|im_end|>"], pad_token_id=0,
            tie_word_embeddings=True,
        ),
        vision_config=dict(  # noqa: C408
            depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=hidden, patch_size=14,
            spatial_merge_size=2, temporal_patch_size=2, window_size=56, fullatt_block_indexes=[1], tokens_per_second=2,
            initializer_range=spread,
        ),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    video = Qwen2VLVideoProcessor(
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4096},
        do_sample_frames=False,
        cap_pixels_per_frame=False,
    )
    image = Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64})
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=PLAIN).save_pretrained(folder)
    return folder
