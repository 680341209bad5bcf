"""Tiny generators from their configuration: whole diffusers pipelines of one to two million parameters.

Autoencoders are built, not learned (`autoencoders`). Tokenizers are byte-level BPEs trained on the prompts, text
encoders are random and stay so: what a word means is learned by the transformer, as it is for every generator with
frozen encoders. The folder that is saved is an ordinary one, which diffusers loads with its own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from longrl.config import GeneratorSettings
from longrl.diffusion.autoencoders import COLOURS, clip_autoencoder, picture_autoencoder

PAD, END, START = "<pad>", "<end>", "<start>"
CLIP_PATCH = 4  # latents a side
SHIFT = 3.0  # of the noise levels, as in SD3 and Wan


def build_tiny(folder: Path, settings: GeneratorSettings, prompts: Iterable[str], seed: int) -> None:
    """Build the pipeline of `settings.family` and save it in `folder`. Equal arguments give equal weights."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        pipeline = BUILDERS[settings.family](settings, list(prompts))
    finally:
        torch.random.set_rng_state(state)
    pipeline.save_pretrained(folder)


def tokenizer(prompts: Iterable[str], settings: GeneratorSettings) -> Any:
    """A byte-level BPE trained on the prompts; texts end with `<end>`, and any text can be read."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[PAD, "<unused>", START, END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(prompts, trainer)
    ends = [(token, bpe.token_to_id(token)) for token in (START, END)]
    bpe.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=END, model_max_length=settings.prompt_tokens
    )


def clip_config(settings: GeneratorSettings, words: Any) -> CLIPTextConfig:
    """A CLIP text encoder of two layers. Its end token must not be 2, which transformers takes for an old mistake."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=settings.text_width,
        intermediate_size=2 * settings.text_width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=settings.prompt_tokens,
        projection_dim=settings.text_width,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        initializer_factor=4.0,  # random features that tell words apart, which trained encoders do by themselves
    )


def t5_sizes(settings: GeneratorSettings, words: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "d_model": 2 * settings.text_width,
        "d_kv": settings.text_width // 2,
        "d_ff": 4 * settings.text_width,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "decoder_start_token_id": words.pad_token_id,
    }


def sd3(settings: GeneratorSettings, prompts: list[str]) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3 with all three text encoders."""
    words = tokenizer(prompts, settings)
    clips = [CLIPTextModelWithProjection(clip_config(settings, words)).eval() for _ in range(2)]
    width = settings.heads * settings.head_width
    transformer = SD3Transformer2DModel(
        sample_size=settings.height // 2,
        patch_size=2,
        in_channels=COLOURS,
        num_layers=settings.layers,
        attention_head_dim=settings.head_width,
        num_attention_heads=settings.heads,
        joint_attention_dim=2 * settings.text_width,
        caption_projection_dim=width,
        pooled_projection_dim=2 * settings.text_width,
        out_channels=COLOURS,
        pos_embed_max_size=max(settings.height, settings.width) // 4,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=picture_autoencoder(),
        text_encoder=clips[0],
        tokenizer=words,
        text_encoder_2=clips[1],
        tokenizer_2=words,
        text_encoder_3=T5EncoderModel(T5Config(**t5_sizes(settings, words))).eval(),
        tokenizer_3=words,
    )


def flux(settings: GeneratorSettings, prompts: list[str]) -> FluxPipeline:
    """A Flux: half of its blocks double, half single."""
    words = tokenizer(prompts, settings)
    third = settings.head_width // 3
    transformer = FluxTransformer2DModel(
        in_channels=4 * COLOURS,
        num_layers=max(1, settings.layers // 2),
        num_single_layers=max(1, settings.layers - settings.layers // 2),
        attention_head_dim=settings.head_width,
        num_attention_heads=settings.heads,
        joint_attention_dim=2 * settings.text_width,
        pooled_projection_dim=settings.text_width,
        axes_dims_rope=(third, third, third),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=picture_autoencoder(),
        text_encoder=CLIPTextModel(clip_config(settings, words)).eval(),
        tokenizer=words,
        text_encoder_2=T5EncoderModel(T5Config(**t5_sizes(settings, words))).eval(),
        tokenizer_2=words,
    )


def wan(settings: GeneratorSettings, prompts: list[str]) -> WanPipeline:
    """A Wan whose autoencoder halves the sides and keeps every frame; its patches are larger, so that it is quick."""
    words = tokenizer(prompts, settings)
    transformer = WanTransformer3DModel(
        num_attention_heads=settings.heads,
        attention_head_dim=settings.head_width,
        patch_size=(1, CLIP_PATCH, CLIP_PATCH),
        in_channels=COLOURS,
        out_channels=COLOURS,
        text_dim=2 * settings.text_width,
        freq_dim=64,
        ffn_dim=4 * settings.heads * settings.head_width,
        num_layers=settings.layers,
        rope_max_seq_len=64,
    )
    return WanPipeline(
        tokenizer=words,
        text_encoder=UMT5EncoderModel(UMT5Config(**t5_sizes(settings, words))).eval(),
        vae=clip_autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        transformer=transformer,
    )


BUILDERS: dict[str, Callable[[GeneratorSettings, list[str]], Any]] = {"sd3": sd3, "flux": flux, "wan": wan}
