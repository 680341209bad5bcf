"""Wan 2.1: `WanTransformer3DModel`, the causal video autoencoder, and a UMT5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor

from longrl.config import GeneratorSettings
from longrl.diffusion.families.base import (
    Conditioning,
    Family,
    GeneratorError,
    check_multiple,
    component,
    to_pixels,
)


class Wan(Family):
    """Latents (B, C, F, H, W); `prompt_embeds` (T, D) of the UMT5."""

    name = "wan"
    pipeline = "WanPipeline"
    long_tokenizer = "tokenizer"
    text_parts = ("tokenizer", "text_encoder")
    lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    video = True
    transformer_class = WanTransformer3DModel
    autoencoder_class = AutoencoderKLWan

    def load_text(self, folder: Path, device: str) -> Any:
        parts = {"transformer": None, "vae": None}
        index = json_index(folder)
        if index.get("transformer_2", [None])[0] is not None:
            raise GeneratorError(
                f"{folder} has two transformers (Wan 2.2, one for high and one for low noise); longrl trains Wan 2.1"
            )
        return WanPipeline.from_pretrained(folder, **parts).to(device)

    def encode(self, text: Any, prompts: Sequence[str], settings: GeneratorSettings) -> Conditioning:
        embeds, _ = text.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=settings.prompt_tokens
        )
        return {"prompt_embeds": embeds}

    def velocity(self, transformer: Any, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = next(transformer.parameters()).dtype
        predicted = transformer(
            hidden_states=latents.to(dtype),
            timestep=t * 1000,
            encoder_hidden_states=conditioning["prompt_embeds"].to(dtype),
            return_dict=False,
        )[0]
        return predicted.to(torch.float32)

    def latent_shape(self, folder: Path, settings: GeneratorSettings) -> tuple[int, ...]:
        autoencoder, patch = component(folder, "vae"), component(folder, "transformer")["patch_size"]
        space, time = factors(autoencoder)
        check_multiple(settings, space * patch[1], self.name)
        if (settings.frames - 1) % time:
            raise GeneratorError(
                f"generator.frames is {settings.frames}; this wan pipeline draws {time} k + 1 frames, such as "
                f"{(settings.frames - 1) // time * time + 1}"
            )
        frames = (settings.frames - 1) // time + 1
        return autoencoder["z_dim"], frames, settings.height // space, settings.width // space

    def tokens(self, folder: Path, shape: tuple[int, ...]) -> int:
        t, h, w = component(folder, "transformer")["patch_size"]
        return (shape[1] // t) * (shape[2] // h) * (shape[3] // w)

    def decode(self, autoencoder: Any, latents: Tensor, clamp: bool = True) -> Tensor:
        mean, std = statistics(autoencoder, latents)
        decoded = autoencoder.decode(latents * std + mean, return_dict=False)[0]
        # The pipeline's autoencoder clamps by itself; the gradient of what lies within is not touched.
        return to_pixels(decoded, clamp).transpose(1, 2)

    def compress(self, autoencoder: Any, pixels: Tensor) -> Tensor:
        found = autoencoder.encode(pixels.transpose(1, 2) * 2 - 1).latent_dist.mean
        mean, std = statistics(autoencoder, found)
        return (found - mean) / std

    def rescale(self, autoencoder: Any, latents: Tensor) -> None:
        channels = latents.transpose(0, 1).flatten(1)
        autoencoder.register_to_config(latents_mean=channels.mean(1).tolist(), latents_std=channels.std(1).tolist())


def factors(autoencoder: dict[str, Any]) -> tuple[int, int]:
    """By how much the autoencoder shrinks space and time.

    >>> factors({"dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]})
    (8, 4)
    """
    return 2 ** (len(autoencoder["dim_mult"]) - 1), 2 ** sum(autoencoder["temperal_downsample"])


def statistics(autoencoder: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, with which the pipeline gives latents unit scale."""
    return tuple(  # type: ignore[return-value]
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (autoencoder.config.latents_mean, autoencoder.config.latents_std)
    )


def json_index(folder: Path) -> dict[str, Any]:
    """The pipeline's list of parts."""
    return json.loads((folder / "model_index.json").read_text())
