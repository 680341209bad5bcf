"""What is asked of a rollout engine and what it answers, whether it runs in this process or as a server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from longrl.errors import LongrlError
from longrl.models.chat import Prompt


class EngineError(LongrlError):
    """The rollout engine cannot do what was asked; the message says which request and why."""


class EngineLost(LongrlError):
    """The rollout engine failed at its work: it crashed, ran out of memory or can't be reached."""


@dataclass(frozen=True)
class Request:
    """One prompt to be continued `n` times. `temperature` 0 is greedy; sample i draws from `seed + i`."""

    prompt: Prompt
    video_embeds: Tensor | None = None  # (video tokens, H)
    n: int = 1
    temperature: float = 1.0
    max_tokens: int = 96
    seed: int = 0


@dataclass(frozen=True)
class Rollout:
    """One sampled response, its closing `<|im_end|>` included; `logprobs` are of the distribution it was drawn from."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: str  # "stop": ended its turn; "length": cut at max_tokens


class RolloutEngine(Protocol):
    """What the trainer needs: `vllm.Engine` in this process, `server.Servers` elsewhere."""

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Continue all requests, `n` rollouts each, in the order of requests."""

    def update_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take the trainer's `state_dict()` and forget all that was computed with older weights."""

    def asleep(self) -> AbstractContextManager[None]:
        """Within this context nothing is asked, and the engine's GPU memory is the trainer's."""

    def close(self) -> None:
        """Free everything; the engine can't be used again."""


def check_requests(requests: Sequence[Request], context: int, hidden: int) -> None:
    """Raise `EngineError` naming the first request whose embeddings don't fit its grid or that is too long.

    vLLM must not see such a one: a wrong shape leaves its engine hanging. `context` counts tokens, `hidden` is H.
    """
    for number, request in enumerate(requests):
        prompt, embeds = request.prompt, request.video_embeds
        length = len(prompt.head) + prompt.video_tokens + len(prompt.tail) + request.max_tokens
        if length > context:
            raise EngineError(
                f"request {number}: prompt and response take {length} tokens, the engine's context is {context}; "
                "use fewer frames or a larger max_model_len"
            )
        if (prompt.grid is None) != (embeds is None):
            raise EngineError(f"request {number}: its prompt has grid {prompt.grid}, but its embeddings are {embeds}")
        if embeds is not None and tuple(embeds.shape) != (prompt.video_tokens, hidden):
            raise EngineError(
                f"request {number}: embeddings are {tuple(embeds.shape)}, but grid {prompt.grid} needs "
                f"{(prompt.video_tokens, hidden)}; the video was encoded with another frame plan or model"
            )


def text_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a model's `state_dict()` a rollout engine needs: all but the vision tower, detached.

    Raises `EngineError` without `lm_head.weight`, which must be there even where it is tied to the embeddings: vLLM
    packs the head apart, and it would stay old.
    """
    if "lm_head.weight" not in state:
        raise EngineError("the weights lack lm_head.weight; pass model.state_dict(), not the saved file's tensors")
    return {name: value.detach() for name, value in state.items() if ".visual." not in name}


def video_id(request: Request) -> str:
    """The name under which vLLM may share a video's prefill and inputs: a hash of all that it is made of.

    The time between temporal patches is part of it, as vLLM's own hash appears not to have it: two videos that look the
    same but differ in length (a black screen, say) must not share positions.
    """
    assert request.video_embeds is not None
    prompt, embeds = request.prompt, request.video_embeds.detach().cpu().contiguous()
    digest = hashlib.sha256(repr((prompt.grid, prompt.second_per_grid, embeds.dtype, embeds.shape)).encode())
    digest.update(embeds.view(torch.uint8).numpy().data)
    return digest.hexdigest()
