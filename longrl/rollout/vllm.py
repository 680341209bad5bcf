"""Rollouts: vLLM in this process, fed with cached video embeddings, its weights updated in place.

STUB of the interface; the body follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from longrl.models.chat import Prompt


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
    """One sampled response; `logprobs` are those of the distribution it was drawn from."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: str  # "stop" (ended its turn) or "length"


class Engine:
    """An in-process vLLM engine for one Hugging Face folder."""

    def __init__(self, folder: str | Path, max_model_len: int = 4096, seed: int = 0, dtype: str = "float32"): ...

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Continue all requests, in one call; results follow the order of requests."""
        raise NotImplementedError

    def update_weights(self, state: Mapping[str, Tensor]) -> None:
        """Put the trainer's weights in place and forget everything computed with the old ones."""

    def close(self) -> None:
        """Free the engine's memory."""
