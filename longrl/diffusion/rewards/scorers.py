"""Scores of models in local folders: CLIP score, PickScore, HPS and an aesthetic predictor.

    clip:/folder        cosine of picture and prompt (arXiv:2104.08718, without its factor of 2.5)
    pickscore:/folder   the same of a CLIP tuned on people's choices, times its scale / 100 (arXiv:2305.01569)
    hps:/folder         the same of HPS v2, converted to a transformers CLIP (arXiv:2306.09341)
    aesthetic:/folder   a CLIP, and beside it predictor.safetensors or predictor.pth: linear layers from its picture
                        embedding to a mark from 1 to 10, returned over 10 (LAION's improved aesthetic predictor)

Of a clip, `FRAMES` frames are scored and averaged. A folder is one that `transformers` loads, its processor included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longrl.diffusion.rewards.rules import Pixels
from longrl.errors import LongrlError

FRAMES = 4
BATCH = 32
PREDICTORS = ("predictor.safetensors", "predictor.pth")


class ScorerError(LongrlError):
    """A scorer's folder can't be used; the message names it."""


def check_folder(kind: str, folder: Path) -> Path:
    """The folder, if a scorer of this kind may be in it; raises `ScorerError`."""
    if not (folder / "config.json").is_file():
        raise ScorerError(
            f"reward {kind}:{folder}: there is no config.json; give the folder of a CLIP model as transformers saves it"
        )
    if kind == "aesthetic" and not any((folder / name).is_file() for name in PREDICTORS):
        raise ScorerError(f"reward aesthetic:{folder}: there is neither {' nor '.join(PREDICTORS)} beside the CLIP")
    return folder


def scorer(kind: str, folder: Path, device: str) -> ClipScorer:
    """The scorer of a kind in a folder; raises `ScorerError`."""
    check_folder(kind, folder)
    return {"aesthetic": Aesthetic, "pickscore": PickScore}.get(kind, ClipScorer)(f"{kind}:{folder}", folder, device)


class ClipScorer:
    """How well pictures and prompts agree; -1 to 1."""

    def __init__(self, name: str, folder: Path, device: str):
        from transformers import AutoProcessor, CLIPModel

        try:
            loaded: Any = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32)
            self.processor: Any = AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ScorerError(f"reward {name}: transformers can't load it: {error}") from error
        self.device = device
        self.model = loaded.to(device).eval()

    @torch.no_grad()
    def __call__(self, pixels: Pixels, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
        chosen = np.linspace(0, pixels.shape[1] - 1, min(FRAMES, pixels.shape[1])).round().astype(int)
        frames = (pixels[:, chosen].reshape(-1, *pixels.shape[2:]) * 255).round().astype(np.uint8)
        words = [prompt for prompt in prompts for _ in chosen]
        values = [
            self.score(frames[start : start + BATCH], words[start : start + BATCH])
            for start in range(0, len(frames), BATCH)
        ]
        return torch.cat(values).cpu().double().view(len(prompts), -1).mean(1).numpy()

    def pictures(self, frames: npt.NDArray[np.uint8]) -> Tensor:
        """Unit embeddings (B, D) of frames."""
        inputs = self.processor.image_processor(list(frames), return_tensors="pt").to(self.device)
        return unit(self.model.get_image_features(**inputs))

    def words(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, D) of prompts, cut where CLIP's memory for words ends."""
        tokenizer = self.processor.tokenizer
        limit = self.model.config.text_config.max_position_embeddings
        inputs = tokenizer(list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        taken = {name: inputs[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return unit(self.model.get_text_features(**taken))

    def score(self, frames: npt.NDArray[np.uint8], prompts: Sequence[str]) -> Tensor:
        """A number a frame."""
        return (self.pictures(frames) * self.words(prompts)).sum(-1)


class PickScore(ClipScorer):
    """About 0.15 to 0.25 for real pictures."""

    def score(self, frames: npt.NDArray[np.uint8], prompts: Sequence[str]) -> Tensor:
        return super().score(frames, prompts) * self.model.logit_scale.exp() / 100


class Aesthetic(ClipScorer):
    """0.1 to 1: the predictor's mark over 10, whatever the prompt."""

    def __init__(self, name: str, folder: Path, device: str):
        super().__init__(name, folder, device)
        path = next(folder / one for one in PREDICTORS if (folder / one).is_file())
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        self.layers = sorted({key.rpartition(".")[0] for key in weights}, key=lambda layer: int(layer.split(".")[-1]))
        self.weights = {key: value.to(device, torch.float32) for key, value in weights.items()}
        width = self.weights[f"{self.layers[0]}.weight"].shape[1]
        if width != self.model.config.projection_dim:
            raise ScorerError(
                f"reward {name}: {path.name} takes embeddings of {width} numbers, this CLIP gives "
                f"{self.model.config.projection_dim}"
            )

    def score(self, frames: npt.NDArray[np.uint8], prompts: Sequence[str]) -> Tensor:
        values = self.pictures(frames)
        for layer in self.layers:  # LAION's predictor has no activations between them
            values = torch.nn.functional.linear(values, self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"])
        return values[:, 0] / 10


def unit(found: Any) -> Tensor:
    """Embeddings of length 1; some releases of transformers wrap them in an output."""
    embeds: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embeds / embeds.norm(dim=-1, keepdim=True)
