"""What longrl knows of a kind of generator: how its pipeline encodes prompts, predicts velocities and decodes.

A family is a file beside this one. `longrl.diffusion` never calls a pipeline as a whole: the parts are loaded where
they are needed, text encoders when prompts are encoded, the transformer and the autoencoder's decoder in training.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from longrl.config import GeneratorSettings
from longrl.errors import LongrlError

Conditioning = dict[str, Tensor]  # what the transformer takes of prompts, one row a prompt


class GeneratorError(LongrlError):
    """A generator can't be built, loaded or used; the message names the folder and the remedy."""


class Family(ABC):
    """One kind of pipeline. Latents are (B, C, H, W) for pictures, (B, C, F, H, W) for clips, float32, unit scale."""

    name: ClassVar[str]
    pipeline: ClassVar[str]  # class name in model_index.json
    text_parts: ClassVar[tuple[str, ...]]  # subfolders that prompts are encoded with
    long_tokenizer: ClassVar[str]  # of the encoder that reads the most of a prompt
    lora_targets: ClassVar[tuple[str, ...]]  # linear layers that an adapter is put on
    video: ClassVar[bool] = False
    even_levels: ClassVar[bool] = False  # noise levels evenly spaced from 1 to 1/steps, before the shift
    transformer_class: ClassVar[type[Any]]
    autoencoder_class: ClassVar[type[Any]]

    @abstractmethod
    def load_text(self, folder: Path, device: str) -> Any:
        """The pipeline without transformer and autoencoder: what `encode` needs."""

    @abstractmethod
    def encode(self, text: Any, prompts: Sequence[str], settings: GeneratorSettings) -> Conditioning:
        """Prompts as the transformer takes them, a row each. `text` is what `load_text` gave."""

    @abstractmethod
    def velocity(self, transformer: Any, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocities of latents at noise levels t (B,), in the latents' shape, float32."""

    @abstractmethod
    def latent_shape(self, folder: Path, settings: GeneratorSettings) -> tuple[int, ...]:
        """Shape of one sample's latents; raises `GeneratorError` for a size that the pipeline can't draw."""

    @abstractmethod
    def tokens(self, folder: Path, shape: tuple[int, ...]) -> int:
        """Length of the sequence that the transformer makes of latents."""

    @abstractmethod
    def decode(self, autoencoder: Any, latents: Tensor, clamp: bool = True) -> Tensor:
        """Pixels (B, F, 3, H, W) in 0..1 of latents (beyond them without `clamp`); pictures have one frame."""

    @abstractmethod
    def compress(self, autoencoder: Any, pixels: Tensor) -> Tensor:
        """The latents of pixels (B, F, 3, H, W) in 0..1, the means of the autoencoder's posterior; differentiable."""

    def cut(self, text: Any, prompt: str, settings: GeneratorSettings) -> bool:
        """Whether the T5-type encoder sees a prompt's beginning only."""
        return len(getattr(text, self.long_tokenizer)(prompt).input_ids) > settings.prompt_tokens

    @abstractmethod
    def rescale(self, autoencoder: Any, latents: Tensor) -> None:
        """Write into the autoencoder's configuration what gives such latents mean 0 and deviation 1."""

    def transformer(self, folder: Path, dtype: torch.dtype, device: str) -> Any:
        """The transformer alone."""
        return self.transformer_class.from_pretrained(folder / "transformer", torch_dtype=dtype).to(device)

    def autoencoder(self, folder: Path, device: str) -> Any:
        """The autoencoder alone, frozen, in float32."""
        loaded = self.autoencoder_class.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        return loaded.to(device).eval().requires_grad_(False)

    def text_digest(self, folder: Path) -> str:
        """sha256 over the files that prompts are encoded with."""
        total = hashlib.sha256()
        for part in self.text_parts:
            for path in sorted((folder / part).rglob("*")):
                if path.is_file():
                    with path.open("rb") as file:
                        own = hashlib.file_digest(file, "sha256").hexdigest()
                    total.update(f"{path.relative_to(folder)}\0{own}".encode())
        return total.hexdigest()


def component(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a pipeline's part."""
    return json.loads((folder / part / "config.json").read_text())


def check_multiple(settings: GeneratorSettings, multiple: int, family: str) -> None:
    """Raises `GeneratorError` for a size whose sides aren't multiples of so many pixels."""
    if settings.height % multiple or settings.width % multiple:
        raise GeneratorError(
            f"generator.height and width are {settings.height} and {settings.width}; this {family} pipeline draws "
            f"multiples of {multiple}"
        )


def to_pixels(images: Tensor, clamp: bool) -> Tensor:
    """An autoencoder's output in -1..1 as pixels in 0..1."""
    pixels = images.float() / 2 + 0.5
    return pixels.clamp(0, 1) if clamp else pixels
