"""The VILA series as a module: a SigLIP tower, a downsampling projector and a Qwen2, in the published folder layout.

    config.json                 what ties the parts together: which tower layer, which projector, how videos are encoded
    llm/                        an ordinary Qwen2ForCausalLM with its tokenizer and chat template
    vision_tower/               an ordinary SiglipVisionModel with its image processor
    mm_projector/               `layers.<i>.weight`, `layers.<i>.bias`

Published as code that travels with the checkpoint (NVlabs/VILA `llava/`, Apache 2.0; NVILA, arXiv:2412.04468; LongVILA,
arXiv:2408.10188); here the tower and the language model are transformers' own classes, and only the projector is ours.

Shapes: F pictures, S patches along a side, C tower width, d downsampling, n = ceil(S / d), H hidden.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, Qwen2ForCausalLM, SiglipVisionModel

from longrl.models.families import StudentError
from longrl.models.siglip import features, freeze_unused, layers_used

PARTS = ("llm", "vision_tower", "mm_projector")
DOWNSAMPLING = {"mlp_downsample": 2, "mlp_downsample_2x2_fix": 2, "mlp_downsample_3x3_fix": 3}
KNOWN = {"mm_vision_select_feature": "cls_patch", "s2": False, "ps3": False, "mm_use_im_start_end": False}
TOWER_PREFIX = "vision_model."  # of published weight names; transformers 5 reads both forms and writes the bare one


class Downsample(nn.Module):
    """d x d neighbouring patches become one row of d² times the width, in reading order; a side that d does not divide
    is filled with zeros below and to the right."""

    def __init__(self, rate: int):
        super().__init__()
        self.rate = rate

    def forward(self, x_FSC: Tensor) -> Tensor:
        side, d = math.isqrt(x_FSC.shape[1]), self.rate
        x = x_FSC.unflatten(1, (side, side))
        fill = -side % d
        x = F.pad(x, (0, 0, 0, fill, 0, fill))
        n = (side + fill) // d
        x = x.view(-1, n, d, n, d, x.shape[-1])  # rows, row within, columns, column within
        return x.permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0], n * n, -1)


class ProjectorConfig(PreTrainedConfig):
    model_type = "v2l_projector"


class Projector(nn.Module):
    """From the tower's patches (F, S², C) to the language model's embeddings (F, n², H).

    Its weights are named as published: `layers.<place in the sequence>`.
    """

    def __init__(self, kind: str, width: int, hidden: int):
        super().__init__()
        if kind not in DOWNSAMPLING:
            raise StudentError(f"mm_projector_type {kind!r} is not known; known are {', '.join(DOWNSAMPLING)}")
        self.rate = DOWNSAMPLING[kind]
        named: dict[str, Any] = {"mm_projector_type": kind, "architectures": ["MultimodalProjector"]}
        self.config = ProjectorConfig(**named)
        wide = width * self.rate**2
        into = [nn.LayerNorm(wide), nn.Linear(wide, hidden if self.rate == 2 else 3 * width), nn.GELU()]
        if self.rate == 3:
            into += [nn.LayerNorm(3 * width), nn.Linear(3 * width, hidden), nn.GELU()]
        self.layers = nn.Sequential(Downsample(self.rate), *into, nn.Linear(hidden, hidden))

    def forward(self, x_FSC: Tensor) -> Tensor:
        return self.layers(x_FSC)


@dataclass
class VilaConfig:
    """The parts' configurations, and `told`: the rest of the top-level config.json."""

    text: Any  # Qwen2Config
    vision: Any  # SiglipVisionConfig
    projector: str  # mm_projector_type
    told: dict[str, Any]

    def get_text_config(self) -> Any:
        return self.text

    @property
    def scales(self) -> int:
        """Sizes at which `dynamic_s2` looks at a picture; their features stand side by side."""
        return len(self.told["s2_scales"].split(",")) if self.told.get("dynamic_s2") else 1


class Vila(nn.Module):
    """The three parts under their published names, with random weights unless language model and tower are given."""

    def __init__(self, config: VilaConfig, llm: Any = None, tower: Any = None):
        super().__init__()
        self.config = config
        self.llm = Qwen2ForCausalLM(config.text) if llm is None else llm
        self.vision_tower = SiglipVisionModel(config.vision) if tower is None else tower
        self.mm_projector = Projector(
            config.projector, config.vision.hidden_size * config.scales, config.text.hidden_size
        )
        freeze_unused(self.vision_tower, self.layers_used)

    @property
    def device(self) -> torch.device:
        return self.llm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.llm.dtype

    @property
    def generation_config(self) -> Any:
        return self.llm.generation_config

    @property
    def layers_used(self) -> int:
        """Tower layers that are run: `mm_vision_select_layer` counts hidden states, the input of the first included."""
        return layers_used(self.vision_tower, self.config.told.get("mm_vision_select_layer", -2))

    def see(self, pixels_F3PP: Tensor) -> Tensor:
        """Pictures to embeddings (F, n², H)."""
        x = features(self.vision_tower, pixels_F3PP, self.layers_used)
        return self.mm_projector(
            x.repeat(1, 1, self.config.scales)
        )  # a picture of a single scale stands for all scales

    def forward(self, **inputs: Any) -> Any:
        """The language model's own forward, of text or of `inputs_embeds`."""
        return self.llm(**inputs)

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.get_output_embeddings()

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """As transformers' models do, in the language model and in the tower."""
        self.llm.gradient_checkpointing_enable(**options)
        self.vision_tower.gradient_checkpointing_enable(**options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configurations in the published layout; tokenizer and image processor are left alone."""
        folder = Path(folder)
        self.llm.save_pretrained(folder / "llm")
        tower, projector = folder / "vision_tower", folder / "mm_projector"
        tower.mkdir(parents=True, exist_ok=True)
        projector.mkdir(parents=True, exist_ok=True)
        self.vision_tower.config.architectures = ["SiglipVisionModel"]
        self.vision_tower.config.save_pretrained(tower)
        _write({TOWER_PREFIX + name: value for name, value in self.vision_tower.state_dict().items()}, tower)
        self.mm_projector.config.save_pretrained(projector)
        _write(self.mm_projector.state_dict(), projector)
        parts = {f"{part}_cfg": json.loads((folder / part / "config.json").read_text()) for part in PARTS}
        (folder / "config.json").write_text(json.dumps(self.config.told | parts, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa"
    ) -> Vila:
        """Read a folder of the published layout; raises `StudentError` naming what is not supported."""
        folder = Path(folder)
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
        told = json.loads((folder / "config.json").read_text())
        told = {name: value for name, value in told.items() if name.removesuffix("_cfg") not in PARTS}
        check(told, folder)
        llm = Qwen2ForCausalLM.from_pretrained(folder / "llm", **options)
        tower = SiglipVisionModel.from_pretrained(folder / "vision_tower", **options)
        kind = json.loads((folder / "mm_projector" / "config.json").read_text())["mm_projector_type"]
        model = cls(VilaConfig(llm.config, tower.config, kind, told), llm, tower)
        model.mm_projector.to(dtype).load_state_dict(_read(folder / "mm_projector"))
        return model


def check(config: dict[str, Any], folder: Path) -> None:
    """Raise `StudentError` for a VILA of another kind than this module computes."""
    if missing := [f"{part}/config.json" for part in PARTS if not (folder / part / "config.json").is_file()]:
        raise StudentError(f"{folder} is no whole VILA: {', '.join(missing)} missing; download the whole folder")
    kinds = {part: json.loads((folder / part / "config.json").read_text()).get("model_type") for part in PARTS[:2]}
    if kinds != {"llm": "qwen2", "vision_tower": "siglip_vision_model"}:
        raise StudentError(
            f"{folder} joins {kinds}; known are those of the VILA series with a Qwen2 and a SigLIP tower"
        )
    for name, right in KNOWN.items():
        if (found := config.get(name, right) or right) != right:
            raise StudentError(f"{folder}/config.json has {name}={found!r}; known is {right!r}")


def _write(state: dict[str, Tensor], folder: Path) -> None:
    kept = {name: value.contiguous() for name, value in state.items()}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def _read(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found
