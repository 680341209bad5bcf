"""What the picture families share: the autoencoder `AutoencoderKL` with its scale and shift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from longrl.config import GeneratorSettings
from longrl.diffusion.families.base import Family, GeneratorError, check_multiple, component, to_pixels


class PictureFamily(Family):
    """Latents (B, C, H, W) of an `AutoencoderKL`; the transformer takes patches of 2 x 2."""

    autoencoder_class = AutoencoderKL

    def latent_shape(self, folder: Path, settings: GeneratorSettings) -> tuple[int, ...]:
        if settings.frames != 1:
            raise GeneratorError(f"generator.frames is {settings.frames}, but a {self.name} pipeline draws pictures: 1")
        autoencoder = component(folder, "vae")
        factor = 2 ** (len(autoencoder["block_out_channels"]) - 1)
        check_multiple(settings, factor * 2, self.name)
        return autoencoder["latent_channels"], settings.height // factor, settings.width // factor

    def tokens(self, folder: Path, shape: tuple[int, ...]) -> int:
        return (shape[-1] // 2) * (shape[-2] // 2)

    def decode(self, autoencoder: Any, latents: Tensor, clamp: bool = True) -> Tensor:
        config = autoencoder.config
        scaled = latents / config.scaling_factor + (config.shift_factor or 0.0)
        return to_pixels(autoencoder.decode(scaled, return_dict=False)[0], clamp)[:, None]

    def compress(self, autoencoder: Any, pixels: Tensor) -> Tensor:
        config = autoencoder.config
        mean = autoencoder.encode(pixels[:, 0] * 2 - 1).latent_dist.mean
        return (mean - (config.shift_factor or 0.0)) * config.scaling_factor

    def rescale(self, autoencoder: Any, latents: Tensor) -> None:
        autoencoder.register_to_config(shift_factor=float(latents.mean()), scaling_factor=1.0 / float(latents.std()))
