"""The parity gate (stub): trainer's logprobs of vLLM's own rollouts against vLLM's."""

from __future__ import annotations


class ParityError(RuntimeError):
    """Trainer and rollout engine disagree about a token; the message says where."""
