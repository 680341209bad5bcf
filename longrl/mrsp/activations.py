"""What training keeps of a long row between forward and backward, and how to keep less of it.

    none        every layer's activations, the fastest
    recompute   each layer's input; the layer runs again in the backward
    offload     the same, kept in the host's memory until it is needed

Values and gradients stay what they are. What a layer needs while it runs is bounded by tiling its feed-forward part.
Checkpoints and their way to the host are transformers' own, which knows how to put them around its layers; DeepSpeed's
(`deepspeed.checkpointing`) are of the reentrant kind and would have to be put around each layer by hand.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor

from longrl.models.base import Student


def limit_activations(student: Student, checkpointing: Literal["none", "recompute", "offload"], tiles: int = 1) -> None:
    """Make training with this student keep less: see the module for `checkpointing` and `tile` for `tiles`."""
    if checkpointing != "none":
        # On the CPU activations are in the host's memory anyway, and there is no memory to pin.
        student.model.gradient_checkpointing_enable(
            offload=checkpointing == "offload" and torch.accelerator.is_available()
        )
    if tiles > 1:
        tile(student, tiles)


def tile(student: Student, tiles: int) -> None:
    """Run the language model's feed-forward layers on `tiles` parts of the tokens, one after another.

    Their widest activations exist for one part at a time, and are computed once more in the backward. DeepSpeed's
    `TiledMLP` (ALST, arXiv:2506.13996) does it; under ZeRO it hands in a weight's gradient after the last part.
    """
    from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledMLP

    def forward(self: Any, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not x.requires_grad:  # else what LoRA adds to the first layer has no gradient
            x = x.detach().requires_grad_()
        rows = x.shape[:-1].numel()
        parts = -(-rows // -(-rows // tiles))  # as many as torch.chunk makes: ZeRO waits for the last
        return TiledMLP.apply(type(self).forward, self, x, parts, list(self.parameters()))

    for layer in student.language_model.layers:
        layer.mlp.forward = MethodType(forward, layer.mlp)
