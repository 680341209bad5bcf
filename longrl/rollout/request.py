"""What is asked of a rollout engine and what it answers, whether it runs in this process or as a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from longrl.errors import LongrlError
from longrl.models.prompt import Prompt


class EngineError(LongrlError):
    """The rollout engine cannot do what was asked; the message says which request and why."""


class EngineLost(LongrlError):
    """The rollout engine failed at its work: it crashed, ran out of memory or can't be reached."""


@dataclass(frozen=True)
class Request:
    """One prompt to be continued `n` times. `temperature` 0 is greedy; sample i draws from `seed + i`."""

    prompt: Prompt
    embeds: tuple[Tensor, ...] = ()  # of the prompt's media, (tokens, W) each
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


def check_requests(requests: Sequence[Request], context: int, width: int) -> None:
    """Raise `EngineError` naming the first request whose embeddings don't fit its grid or that is too long.

    vLLM must not see such a one: a wrong shape leaves its engine hanging. `context` counts tokens, `width` is that of
    embeddings.
    """
    for number, request in enumerate(requests):
        length = len(request.prompt) + request.max_tokens
        if length > context:
            raise EngineError(
                f"request {number}: prompt and response take {length} tokens, the engine's context is {context}; "
                "use fewer frames or a larger max_model_len"
            )
        if why := request.prompt.misfit(request.embeds, width):
            raise EngineError(f"request {number}: {why}")


def check_head(state: Mapping[str, Tensor]) -> None:
    """Raise `EngineError` without `lm_head.weight`, which must be there even where it is tied to the embeddings: vLLM
    packs the head apart, and it would stay old."""
    if not any(name.endswith("lm_head.weight") for name in state):
        raise EngineError("the weights lack lm_head.weight; pass model.state_dict(), not the saved file's tensors")
