"""Small random students with a SigLIP tower as folders on disk: a VILA in its published layout, a LLaVA-OneVision.

Their weights are large enough that a wrong position, order or mask shows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from longrl.models.llava_onevision import PUBLISHED
from longrl.models.vila_model import Vila, VilaConfig

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<vila/video>", "<video>"]
TEXTS = ["<think>the red ball moves left and then right.</think><answer>A</answer>", "Describe it. - red (A)\n"]
SIDE = 70  # pixels: 5 patches, so neither 2 nor 3 divides them
SPREAD = 0.12


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with a Qwen2 chat format."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )


def text_config(vocabulary: int) -> dict:
    return {
        "vocab_size": vocabulary, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e3}, "initializer_range": SPREAD,
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True,
    }  # fmt: skip


def vision_config() -> dict:
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip


@torch.no_grad()
def stir(module: torch.nn.Module) -> None:
    """Normal weights everywhere, biases and norms too, so that none is without effect."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * SPREAD)


def build_vila(folder: Path, projector: str = "mlp_downsample_2x2_fix", **config) -> Path:
    """A VILA; `config` are settings of the top-level config.json."""
    torch.manual_seed(0)
    words = tokenizer()
    tower = SiglipVisionModel(SiglipVisionConfig(**vision_config()))
    stir(tower)
    told = {
        "model_type": "llava_llama", "architectures": ["LlavaLlamaModel"], "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch", "image_aspect_ratio": "resize", "resume_path": "./vlm", **config,
    }  # fmt: skip
    model = Vila(VilaConfig(Qwen2Config(**text_config(len(words))), tower.config, projector, told), tower=tower)
    stir(model.mm_projector)
    model.save_pretrained(folder)
    words.save_pretrained(folder / "llm")
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "vision_tower")
    return folder


def build_llava(folder: Path) -> Path:
    """A LLaVA-OneVision."""
    torch.manual_seed(0)
    words = tokenizer()
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(len(words))},
        vision_config={"model_type": "siglip_vision_model", **vision_config()},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    stir(model.model.vision_tower)
    stir(model.model.multi_modal_projector)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=config.image_grid_pinpoints),
        words,
        LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        chat_template=PUBLISHED,
    ).save_pretrained(folder)
    return folder
