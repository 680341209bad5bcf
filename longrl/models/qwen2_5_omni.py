"""Qwen2.5-Omni, its thinker: sound, video, a video with its own sound, images and text in; text out.

1. Prompts and positions are those of `longrl.models.omni_chat`. vLLM takes no embeddings of sound, and its positions
   differ: `longrl.rollout.omni` gives it ours.
2. The tower of sound attends within windows of two seconds, so a long sound goes through it in pieces, exactly.
3. Folders hold the thinker under its published names (`thinker.*`), with `enable_audio_output` off: transformers'
   thinker and its whole model load them (the latter asks for the published `spk_dict.pt`), and so does vLLM. The talker
   is not trained and not written.

Shapes: W width of an embedding, F frames of a spectrogram.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from longrl.config import ModelSettings
from longrl.models.families import StudentError
from longrl.models.omni_chat import OmniChat, places
from longrl.models.prompt import Kind, Medium, Prompt, Slot
from longrl.models.qwen_vl import QwenVL
from longrl.models.tiny import CHAT, PATCH, PIXELS, start_attention, start_vision, text_sizes, tower_sizes
from longrl.video.audio import RATE, log_mel, samples
from longrl.video.sample import FramePlan

PREFIX = "thinker."
WINDOWS = 150  # windows of two seconds in one call of the tower of sound: bounds its memory
NAMES = {  # the configuration's -> the tokenizer's
    "image_token_index": "<|IMAGE|>",
    "video_token_index": "<|VIDEO|>",
    "audio_token_index": "<|AUDIO|>",
    "audio_start_token_id": "<|audio_bos|>",
    "audio_end_token_id": "<|audio_eos|>",
    "vision_start_token_id": "<|vision_bos|>",
    "vision_end_token_id": "<|vision_eos|>",
}
ROLES = {  # the processor's -> the tokenizer's
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

BINS, HOP = 16, 2000  # of a tiny one's spectrograms: mel bins, samples between frames
HEARD = "<|audio_bos|><|AUDIO|><|audio_eos|>"
OMNI_CHAT = (
    CHAT.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|vision_bos|><|VIDEO|><|vision_eos|>")
    .replace("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_bos|><|IMAGE|><|vision_eos|>")
    .replace("{% else %}{{ c['text'] }}", "{% elif c['type'] == 'audio' %}" + HEARD + "{% else %}{{ c['text'] }}")
)


class Thinker(Qwen2_5OmniThinkerForConditionalGeneration):
    """transformers' thinker, saved as a folder of the whole model."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:  # type: ignore[override]
        """Write weights and configuration under the names of the published checkpoints."""
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        for path in folder.glob("*.safetensors"):
            weights = {PREFIX + name: value for name, value in load_file(path).items()}
            path.unlink()  # what is mapped must not be written over
            save_file(weights, path, {"format": "pt"})
        for path in folder.glob("*.safetensors.index.json"):
            index = json.loads(path.read_text())
            index["weight_map"] = {PREFIX + name: shard for name, shard in index["weight_map"].items()}
            path.write_text(json.dumps(index, indent=2))
        thinker = json.loads((folder / "config.json").read_text()) | {"architectures": [type(self).__mro__[1].__name__]}
        whole = {
            "architectures": ["Qwen2_5OmniForConditionalGeneration"],
            "model_type": "qwen2_5_omni",
            "enable_audio_output": False,
            "dtype": thinker.get("dtype"),
            "thinker_config": thinker,
        }
        (folder / "config.json").write_text(json.dumps(whole, indent=2))


class Qwen2_5_Omni(QwenVL):
    """The thinker of a Qwen2.5-Omni."""

    MODEL = Thinker
    CHAT = OmniChat
    KINDS = ("video", "image", "audio")
    ENCODERS = ("visual.", "audio_tower.")
    TOKENS = tuple(ROLES.values())

    def __init__(self, model: Any, tokenizer: Any, processor: Any = None):
        super().__init__(model, tokenizer, processor)
        self.chat: OmniChat
        self.chat.pace = model.config.position_id_per_seconds
        self.chat.turn = self.chat.pace * model.config.seconds_per_chunk

    @property
    def language_model(self) -> Any:
        return self.model.model

    @property
    def tower(self) -> Any:
        return self.model.visual

    @property
    def ears(self) -> Any:
        """The tower of sound, its projector included."""
        return self.model.audio_tower

    def group(self, name: str) -> list[nn.Module]:
        projector = [self.ears.ln_post, self.ears.proj]
        if name == "projector":
            return [*super().group(name), *projector]
        if name == "tower":
            return [*super().group(name), *(m for m in self.ears.children() if all(m is not p for p in projector))]
        return super().group(name)

    def digested(self) -> list[tuple[Any, nn.Module]]:
        return [(self.tower.config, self.tower), (self.ears.config, self.ears)]

    @classmethod
    def embedding_width(cls, config: Any) -> int:
        return config.get_text_config().hidden_size

    # From media to embeddings.

    def media(self, kind: Kind, plan: FramePlan) -> tuple[Medium, ...]:
        seen = (self.medium(kind, plan),) if plan.times else ()
        if plan.audio is None:
            return seen
        frames = -(-samples(plan.audio) // self.processor.feature_extractor.hop_length)
        if frames < 3:
            raise StudentError(f"{plan.audio[0]:g}-{plan.audio[1]:g} s is too short a sound; choose a longer span")
        return (*seen, self.chat.audio(sound_tokens(frames)))

    def hear(self, sounds: Sequence[np.ndarray]) -> list[Tensor]:
        """Embed sounds, float32 (samples,) at 16 kHz: (tokens, W) each, differentiable."""
        extractor, weight = self.processor.feature_extractor, self.ears.conv1.weight
        if extractor.sampling_rate != RATE:
            raise StudentError(f"the feature extractor takes {extractor.sampling_rate} samples a second, not {RATE}")
        most = WINDOWS * 2 * self.ears.n_window
        mels = [torch.from_numpy(log_mel(extractor, sound)) for sound in sounds]
        pieces = [list(mel.split(most, 1)) for mel in mels]
        found: list[Tensor] = []
        for group in batches([piece for each in pieces for piece in each], most):
            lengths = torch.tensor([piece.shape[1] for piece in group], device=weight.device)
            joined = torch.cat(group, 1).to(weight.device, weight.dtype)
            tokens = [sound_tokens(int(length)) for length in lengths]
            output = self.ears(joined, feature_lens=lengths, aftercnn_lens=(lengths - 1) // 2 + 1)
            found += output.last_hidden_state.split(tokens)
        parts = iter(found)
        return [torch.cat([next(parts) for _ in each]) for each in pieces]

    # From prompts to hidden states.

    def spread(self, slot: Slot) -> Tensor:
        return places(slot)

    # What vLLM takes: see `longrl.rollout.omni`.

    @classmethod
    def vllm_prepare(cls) -> None:
        from longrl.rollout import omni

        omni.register()

    @classmethod
    def vllm_input(cls, prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any]:
        from longrl.rollout import omni

        return omni.engine_input(prompt, embeds)

    @classmethod
    def vllm_features(cls, prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any] | None:
        from longrl.rollout import omni

        return omni.features(prompt, embeds)

    @classmethod
    def vllm_weights(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {PREFIX + name: value for name, value in super().vllm_weights(state).items()}

    # A small one.

    @classmethod
    def load_processor(cls, folder: str | Path) -> Any:
        return Qwen2_5OmniProcessor.from_pretrained(folder)

    @classmethod
    def tiny_config(cls, tokenizer: Any, settings: ModelSettings) -> Any:
        """Two positions a second and spectra of eight frames a second keep the sound of a story short."""
        vision = tower_sizes(settings) | {
            "window_size": 8 * PATCH,
            "fullatt_block_indexes": list(range(settings.vision_depth)),
        }
        hearing = {
            "num_mel_bins": BINS,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * settings.vision_width,
            "d_model": settings.vision_width,
            "n_window": RATE // HOP,
            "max_source_positions": 64,
            "output_dim": settings.hidden_size,
            "initializer_range": settings.initializer_range,
        }
        return Qwen2_5OmniThinkerConfig(
            text_config=text_sizes(tokenizer, settings),
            vision_config=vision,
            audio_config=hearing,
            position_id_per_seconds=RATE // HOP // 4,
            seconds_per_chunk=2,
            initializer_range=settings.initializer_range,
            tie_word_embeddings=True,
            **{name: tokenizer.convert_tokens_to_ids(token) for name, token in NAMES.items()},
        )

    @classmethod
    def tiny_processor(cls, tokenizer: Any) -> Any:
        for name, token in ROLES.items():
            tokenizer.init_kwargs[name] = token
        tokenizer._set_model_specific_special_tokens(special_tokens=ROLES)
        return Qwen2_5OmniProcessor(
            image_processor=Qwen2VLImageProcessor(**PIXELS),
            video_processor=Qwen2VLVideoProcessor(**PIXELS, cap_pixels_per_frame=False),
            feature_extractor=WhisperFeatureExtractor(
                feature_size=BINS, hop_length=HOP, n_fft=HOP, chunk_length=300, return_attention_mask=True
            ),
            tokenizer=tokenizer,
            chat_template=OMNI_CHAT,
        )

    @classmethod
    def tiny_start(cls, model: Any, seed: int) -> None:
        start_attention(model.model, seed)
        start_vision(model.visual, seed + 1)

    def prepare(self) -> None:
        """Also have windows of equal length in the tower of sound run as one batch."""
        super().prepare()
        for layer in self.ears.layers:
            layer.self_attn.forward = types.MethodType(_equal_turns, layer.self_attn)


def sound_tokens(frames: int) -> int:
    """Embeddings of a spectrogram of F frames: a convolution and a pooling each take every second one."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def batches(pieces: Sequence[Tensor], most: int) -> list[list[Tensor]]:
    """Spectrograms (bins, F) in groups of at most `most` frames, in order."""
    groups: list[list[Tensor]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.shape[1] > most:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.shape[1]
    return groups


def _equal_turns(self: Any, hidden_states: Tensor, cu_seqlens: Tensor, **kwargs: Any) -> Tensor:
    """Attention within windows of sound; those of one length are a batch, other cases go to the model's own code."""
    lengths = cu_seqlens.diff()
    length = int(lengths[0])
    if bool((lengths != length).any()):
        return type(self).forward(self, hidden_states, cu_seqlens, **kwargs)
    query, key, value = (
        project(hidden_states).view(len(lengths), length, self.num_heads, -1).transpose(1, 2)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    out = nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
    return self.out_proj(out.transpose(1, 2).reshape(hidden_states.shape))
