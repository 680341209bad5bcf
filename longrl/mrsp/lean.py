"""Decoder layers that keep less for their backward than autograd's own chains of operations.

    RMSNorm       keeps its input and a number for each token; autograd keeps the input twice, normed value and output
    GatedProduct  keeps gate and up; autograd keeps the gate's activation and the product's factors besides
    remade        what matrix products keep of their input is made again from those: the normed input of a layer's
                  attention and feed-forward part, and the gated product itself

and of a packed row's prompts the last layer computes no feed-forward part: nothing reads their last hidden states.
Values are those of transformers' own modules, gradients up to rounding. It is put into the language model from outside
(`make_lean`), as the field's fused kernels do on GPUs (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989), in plain torch
that runs anywhere.

Shapes: (B, L, H) hidden states, (..., H) for norms, (..., I) for products.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from longrl.mrsp.attention import Layout

# The language models of Qwen2, Qwen2.5 and Qwen3, with or without eyes and ears, and of Llama.
LAYER = re.compile(r"(Qwen(2|2VL|2_5_VL|2_5Omni|3|3VLText)|Llama)DecoderLayer")
NORM = re.compile(r"(Qwen(2|2VL|2_5_VL|2_5Omni|3|3VLText)|Llama)RMSNorm")
GATED = re.compile(r"(Qwen(2|2_5Omni|3|3VLText)|Llama)MLP")
SILU = ("SiLUActivation", "SiLU")


def make_lean(language_model: Any) -> None:
    """Let the layers, norms and feed-forward parts of a language model keep less; their weights and names stay.

    What is not of the classes above, whose formulas these are, stays as it is.
    """
    for module in language_model.modules():
        name = type(module).__name__
        if NORM.fullmatch(name):
            module.forward = MethodType(_norm, module)
        elif GATED.fullmatch(name) and type(module.act_fn).__name__ in SILU:
            module.forward = MethodType(_feed_forward, module)
        elif LAYER.fullmatch(name):
            module.forward = MethodType(_layer, module)


def _layer(self: Any, hidden_states: Tensor, *args: Any, layout: Layout | None = None, **named: Any) -> Tensor:
    """A pre-norm decoder layer, (B, L, H) -> (B, L, H); in the last one the rows of a layout's prompts become zeros."""
    x, extra = hidden_states, {} if layout is None else {"layout": layout}
    normed = self.input_layernorm(x)
    with remade(normed, self.input_layernorm, x):
        attended, _ = self.self_attn(normed, *args, **extra, **named)
    unread = 0
    if layout is not None and self.self_attn.layer_idx == self.self_attn.config.num_hidden_layers - 1:
        unread = min(layout.unread(x.shape[1]), x.shape[1] - 1)  # tiles and ZeRO need a row
    x = (x + attended)[:, unread:]
    normed = self.post_attention_layernorm(x)
    with remade(normed, self.post_attention_layernorm, x):
        return F.pad(x + self.mlp(normed), (0, 0, unread, 0))


def _norm(self: Any, x: Tensor) -> Tensor:
    return RMSNorm.apply(x, self.weight, self.variance_epsilon)


def _feed_forward(self: Any, x: Tensor) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    product = GatedProduct.apply(gate, up)
    with remade(product, GatedProduct.apply, gate, up):
        return self.down_proj(product)


def remade(value: Tensor, function: Callable[..., Tensor], *inputs: Tensor) -> AbstractContextManager[None]:
    """Within this context operations keep `value` for their backward as `function(*inputs)`, to be computed again.

    The inputs must be kept anyway for this to save anything. Other tensors, views of a part of `value` too, are kept
    as they are. Within hooks of others nothing is done: a checkpointed layer keeps nothing but its input anyway, and
    hooks replace those around them.
    """
    around = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if around is not None and not getattr(around[0], "remakes", False):
        return nullcontext()
    place, size, recipe = value.data_ptr(), value.numel(), tuple(x.detach() for x in inputs)
    again: list[Tensor] = []  # made again at the first of `keepers` that asks, held until the last has
    keepers = asked = 0

    def pack(kept: Tensor) -> Tensor | torch.Size:
        nonlocal keepers
        if kept.data_ptr() != place or kept.numel() != size or not kept.is_contiguous():
            return kept
        keepers += 1
        return kept.shape

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        nonlocal asked
        if isinstance(kept, Tensor):
            return kept
        if not again:
            with torch.no_grad():
                again.append(function(*recipe))
        asked += 1
        return (again.pop() if asked % keepers == 0 else again[0]).view(kept)

    pack.remakes = True  # type: ignore[attr-defined]
    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class RMSNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x²) + eps), computed in at least float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        normed = x.to(scale.dtype) * scale
        grad = grad.to(scale.dtype)
        of_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad = grad * weight.to(scale.dtype)
        along = (grad * normed).mean(-1, keepdim=True)
        return torch.addcmul(grad, normed, along, value=-1).mul_(scale).to(x.dtype), of_weight, None


class GatedProduct(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)
