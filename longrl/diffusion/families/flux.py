"""Flux.1: `FluxTransformer2DModel` over packed 2 x 2 patches, a CLIP and a T5.

Two kinds of guidance exist: `guidance` of `rl.sampling` and `compare` is true classifier-free guidance with a negative
prompt; the number that a guidance-distilled checkpoint takes as an input stays at the 3.5 of its pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from longrl.config import GeneratorSettings
from longrl.diffusion.families.base import Conditioning
from longrl.diffusion.families.pictures import PictureFamily

DISTILLED = 3.5  # what `FluxPipeline` gives to transformers that take guidance as an input


class Flux(PictureFamily):
    """`prompt_embeds` (T, D) of the T5, `pooled` (P,) of the CLIP."""

    name = "flux"
    pipeline = "FluxPipeline"
    long_tokenizer = "tokenizer_2"
    text_parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    lora_targets = (
        "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0",
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    even_levels = True
    transformer_class = FluxTransformer2DModel

    def load_text(self, folder: Path, device: str) -> Any:
        return FluxPipeline.from_pretrained(folder, transformer=None, vae=None).to(device)

    def encode(self, text: Any, prompts: Sequence[str], settings: GeneratorSettings) -> Conditioning:
        embeds, pooled, _ = text.encode_prompt(list(prompts), None, max_sequence_length=settings.prompt_tokens)
        return {"prompt_embeds": embeds, "pooled": pooled}

    def velocity(self, transformer: Any, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        parameter = next(transformer.parameters())
        dtype, device = parameter.dtype, latents.device
        batch, channels, height, width = latents.shape
        words = conditioning["prompt_embeds"].to(dtype)
        guidance = torch.full((batch,), DISTILLED, device=device) if transformer.config.guidance_embeds else None
        predicted = transformer(
            hidden_states=FluxPipeline._pack_latents(latents.to(dtype), batch, channels, height, width),
            timestep=t,
            guidance=guidance,
            pooled_projections=conditioning["pooled"].to(dtype),
            encoder_hidden_states=words,
            txt_ids=torch.zeros(words.shape[1], 3, device=device, dtype=dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, device, dtype),
            return_dict=False,
        )[0]
        patches = predicted.view(batch, height // 2, width // 2, channels, 2, 2)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(latents.shape).to(torch.float32)
