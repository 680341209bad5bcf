"""Qwen2.5-Omni in vLLM, fed with embeddings of sound as of video.

vLLM's own class takes embeddings of videos and images only, computes those of sounds itself, and its positions of a
video with its sound are off by one (see `longrl.models.omni_chat`). `Fed` is that class with both changed: an item
is the embeddings of a slot's pads, in the order of its tokens, with the positions that the trainer uses. It is
registered under the published name, in each process that reads a folder of the family (`register`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.inputs import mm_input, tokens_input
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerForConditionalGeneration
from vllm.model_executor.models.registry import ModelRegistry
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItem, MultiModalKwargsItems, PlaceholderRange

from longrl.models.omni_chat import places
from longrl.models.prompt import Kind, Prompt
from longrl.models.vllm_inputs import medium_id

NAMES = ("Qwen2_5OmniForConditionalGeneration", "Qwen2_5OmniModel")  # published architectures


class Fed(Qwen2_5OmniThinkerForConditionalGeneration):
    """The thinker without towers."""

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """The embeddings as they came, (tokens, H) for each item."""
        return tuple(each for name, rows in kwargs.items() if name.endswith("_embeds") for each in rows)

    def embed_input_ids(self, *args: Any, **kwargs: Any) -> Tensor:
        """Without the search for alternating tokens: an item's embeddings come in their order."""
        return SupportsMultiModal.embed_input_ids(self, *args, **kwargs)

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions (3, L) of a prompt, and by how many the next one is ahead of the number of tokens."""
        parts: list[Tensor] = []
        at = start = 0
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            data = feature.data
            block, lead = (data[f"{feature.modality}_{name}"].data for name in ("places", "lead"))
            text = feature.mm_position.offset - int(lead) - at
            parts += [(torch.arange(text) + start).expand(3, -1), block.T + start + text]
            start = max(start + text, int(parts[-1].max()) + 1)
            at += text + block.shape[0]
        parts.append((torch.arange(len(input_tokens) - at) + start).expand(3, -1))
        found = torch.cat(parts, 1)
        return found, int(found.max()) + 1 - len(input_tokens)


def register() -> None:
    """Let vLLM load folders of the family with `Fed` in this process."""
    for name in NAMES:
        ModelRegistry.register_model(name, Fed)


def items(prompt: Prompt, embeds: Sequence[Tensor]) -> list[tuple[Kind, str, PlaceholderRange, MultiModalKwargsItem]]:
    """What vLLM keeps of each slot: its modality, a name, where its embeddings stand in the prompt, its tensors."""
    given, found = iter(embeds), []
    for slot, start in zip(prompt.slots, prompt.starts(), strict=True):
        ids, kind = torch.tensor(slot.expanded), slot.media[0].kind
        own = [next(given).detach().cpu() for _ in slot.media]
        inside = torch.isin(ids, torch.tensor(slot.pads)).nonzero()[:, 0]
        lead, count = int(inside[0]), int(inside[-1] - inside[0]) + 1
        rows = torch.empty(count, own[0].shape[1], dtype=own[0].dtype)
        for pad, each in zip(slot.pads, own, strict=True):
            rows[ids[lead : lead + count] == pad] = each
        tensors = {f"{kind}_embeds": [rows], f"{kind}_places": [places(slot).T], f"{kind}_lead": torch.tensor([lead])}
        fields = {
            name: MultiModalFieldConfig.batched(kind, keep_on_cpu=not name.endswith("_embeds")) for name in tensors
        }
        item = MultiModalKwargsItems.from_hf_inputs(BatchFeature(tensors), fields)[kind][0]
        names = "".join(medium_id(medium, each) for medium, each in zip(slot.media, own, strict=True))
        name = hashlib.sha256(names.encode()).hexdigest()
        found.append((kind, name, PlaceholderRange(offset=start + lead, length=count), item))
    return found


def engine_input(prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any]:
    """A prompt as vLLM's engine takes it, past vLLM's own processor of the family."""
    if not prompt.slots:
        return dict(tokens_input(prompt.expanded))
    kwargs: dict[str, list[Any]] = {}
    names: dict[str, list[str]] = {}
    ranges: dict[str, list[PlaceholderRange]] = {}
    for kind, name, place, item in items(prompt, embeds):
        kwargs.setdefault(kind, []).append(item)
        names.setdefault(kind, []).append(name)
        ranges.setdefault(kind, []).append(place)
    return dict(mm_input(prompt.expanded, MultiModalKwargsItems(kwargs), names, ranges))


def features(prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any] | None:
    """The same for a server, as its `MultiModalFeatures`: tensors in base64."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    found: dict[str, dict[str, list[Any]]] = {"mm_hashes": {}, "mm_placeholders": {}, "kwargs_data": {}}
    for kind, name, place, item in items(prompt, embeds):
        found["mm_hashes"].setdefault(kind, []).append(name)
        found["mm_placeholders"].setdefault(kind, []).append({"offset": place.offset, "length": place.length})
        found["kwargs_data"].setdefault(kind, []).append(encode_mm_kwargs_item(item))
    return found if prompt.slots else None
