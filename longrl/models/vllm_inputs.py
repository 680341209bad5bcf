"""What vLLM takes of a family: its arguments, prompts with their media as embeddings, and weights.

Class methods throughout: an engine runs on a folder and has no student.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from longrl.models.families import StudentError
from longrl.models.prompt import Kind, Medium, Prompt, Slot

MOST = 4096  # media of a prompt, where vLLM must know a number


class VllmInputs:
    """The half of a family that faces vLLM."""

    KINDS: ClassVar[tuple[Kind, ...]] = ()  # what a prompt may show
    ENCODERS: ClassVar[tuple[str, ...]] = ()  # parts of weight names that a rollout engine does without
    VLLM_TOWER: ClassVar[bool] = False  # vLLM takes embeddings only where it has built the tower, too
    VLLM_FOLDER: ClassVar[str] = ""  # the part of the model's folder that vLLM runs on
    VLLM_MIXED: ClassVar[bool] = False  # it takes media as part of a prompt of embeddings (`longrl.models.mixed`)

    @classmethod
    def vllm_options(cls) -> dict[str, Any]:
        """vLLM's arguments for media that come as embeddings; a tower is built only where vLLM can't do without."""
        limits = dict.fromkeys(cls.KINDS, MOST if cls.VLLM_TOWER else 0)
        options = {"enable_mm_embeds": bool(cls.KINDS), "limit_mm_per_prompt": limits}
        return options | ({"skip_mm_profiling": True} if cls.VLLM_TOWER else {})

    @classmethod
    def vllm_medium(cls, medium: Medium, embeds: Tensor) -> dict[str, Tensor]:
        """A medium as vLLM's data parser of the family names it: `<kind>_embeds` and tensors with one row."""
        raise StudentError(f"a {cls.__name__} takes no media")

    @classmethod
    def vllm_prepare(cls) -> None:
        """Tell vLLM what it must know before it starts with a folder of this family; for most this is nothing."""
        return None

    @classmethod
    def vllm_input(cls, prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any]:
        """A prompt for `vllm.LLM.generate`."""
        request: dict[str, Any] = {"prompt_token_ids": prompt.compact}
        if not prompt.media:
            return request
        data: dict[str, dict[str, list[Tensor]]] = {}
        names: dict[str, list[str]] = {}
        for medium, each in zip(prompt.media, embeds, strict=True):
            for name, value in cls.vllm_medium(medium, each.detach()).items():
                data.setdefault(medium.kind, {}).setdefault(name, []).append(value)
            names.setdefault(medium.kind, []).append(medium_id(medium, each))
        joined = {kind: {name: together(rows) for name, rows in fields.items()} for kind, fields in data.items()}
        return request | {"multi_modal_data": joined, "multi_modal_uuids": names}

    @classmethod
    def vllm_items(cls, slot: Slot, medium: Medium, embeds: Tensor) -> list[tuple[Medium, Tensor, int, int]]:
        """A medium of a slot as items of which every token is an embedding: what, embeddings, place in slot, length."""
        return [(medium, embeds, 0, len(slot.expanded))]

    @classmethod
    def vllm_features(cls, prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any] | None:
        """The media of an expanded prompt as vLLM's `MultiModalFeatures`: names, places, tensors in base64."""
        from transformers import BatchFeature
        from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item
        from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

        if not prompt.media:
            return None
        found: dict[str, dict[str, list[Any]]] = {"mm_hashes": {}, "mm_placeholders": {}, "kwargs_data": {}}
        given = iter(embeds)
        for slot, start in zip(prompt.slots, prompt.starts(), strict=True):
            for whole in slot.media:
                for medium, each, offset, length in cls.vllm_items(slot, whole, next(given).detach().cpu()):
                    tensors = cls.vllm_medium(medium, each)
                    flat = MultiModalFieldConfig.flat_from_sizes(medium.kind, torch.tensor([medium.tokens]))
                    single = MultiModalFieldConfig.batched(medium.kind, keep_on_cpu=True)
                    fields = {name: flat if name.endswith("_embeds") else single for name in tensors}
                    item = MultiModalKwargsItems.from_hf_inputs(BatchFeature(tensors), fields)[medium.kind][0]
                    for name, value in (
                        ("mm_hashes", medium_id(medium, each)),
                        ("mm_placeholders", {"offset": start + offset, "length": length}),
                        ("kwargs_data", encode_mm_kwargs_item(item)),
                    ):
                        found[name].setdefault(medium.kind, []).append(value)
        return found

    @classmethod
    def vllm_weights(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of a model's `state_dict()` a rollout engine needs: all but the encoders, detached."""
        return {name: value.detach() for name, value in state.items() if not any(part in name for part in cls.ENCODERS)}


def together(rows: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Tensors of several media as one; as a list where their rows differ in length."""
    return torch.cat(list(rows)) if len({row.shape[1:] for row in rows}) == 1 else [row[0] for row in rows]


def medium_id(medium: Medium, embeds: Tensor) -> str:
    """The name under which vLLM may share a medium's prefill and inputs: a hash of all that it is made of.

    The time between temporal patches is part of it, as vLLM's own hash appears not to have it: two videos that look the
    same but differ in length (a black screen, say) must not share positions.
    """
    embeds = embeds.detach().cpu().contiguous()
    digest = hashlib.sha256(repr((medium, embeds.dtype, embeds.shape)).encode())
    digest.update(embeds.view(torch.uint8).numpy().data)
    return digest.hexdigest()
