"""Stable Diffusion 3 and 3.5: `SD3Transformer2DModel`, two CLIP text encoders and a T5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from longrl.config import GeneratorSettings
from longrl.diffusion.families.base import Conditioning
from longrl.diffusion.families.pictures import PictureFamily


class SD3(PictureFamily):
    """`prompt_embeds` (T, D) of all three encoders, `pooled` (P,) of both CLIPs."""

    name = "sd3"
    pipeline = "StableDiffusion3Pipeline"
    long_tokenizer = "tokenizer_3"
    text_parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3")
    # As Flow-GRPO adapts SD3.5: the projections of both attention streams.
    lora_targets = (
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
        "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v",
    )  # fmt: skip
    transformer_class = SD3Transformer2DModel

    def load_text(self, folder: Path, device: str) -> Any:
        return StableDiffusion3Pipeline.from_pretrained(folder, transformer=None, vae=None).to(device)

    def encode(self, text: Any, prompts: Sequence[str], settings: GeneratorSettings) -> Conditioning:
        embeds, _, pooled, _ = text.encode_prompt(
            list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=settings.prompt_tokens
        )
        return {"prompt_embeds": embeds, "pooled": pooled}

    def velocity(self, transformer: Any, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = next(transformer.parameters()).dtype
        predicted = transformer(
            hidden_states=latents.to(dtype),
            timestep=t * 1000,
            encoder_hidden_states=conditioning["prompt_embeds"].to(dtype),
            pooled_projections=conditioning["pooled"].to(dtype),
            return_dict=False,
        )[0]
        return predicted.to(torch.float32)
