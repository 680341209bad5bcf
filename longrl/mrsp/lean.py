"""Norms and gated feed-forward products that keep less for their backward than autograd's own chains of operations.

    RMSNorm       keeps its input and a number for each token; autograd keeps the input twice, normed value and output
    GatedProduct  keeps gate and up; autograd keeps the gate's activation and the product's factors besides

Values are those of transformers' own modules, gradients up to rounding. It is put into the language model from outside
(`make_lean`), as the field's fused kernels do on GPUs (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989), in plain torch
that runs anywhere.

Shapes: (..., H) for norms, (..., I) for products.
"""

from __future__ import annotations

import re
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The language models of Qwen2, Qwen2.5 and Qwen3, with or without eyes and ears, and of Llama.
NORM = re.compile(r"(Qwen(2|2VL|2_5_VL|2_5Omni|3|3VLText)|Llama)RMSNorm")
GATED = re.compile(r"(Qwen(2|2_5Omni|3|3VLText)|Llama)MLP")
SILU = ("SiLUActivation", "SiLU")


def make_lean(language_model: Any) -> None:
    """Let the norms and feed-forward parts of a language model keep less; their weights and names stay.

    What is not of the classes below, whose formulas these are, stays as it is.
    """
    for module in language_model.modules():
        name = type(module).__name__
        if NORM.fullmatch(name):
            module.forward = MethodType(_norm, module)
        elif GATED.fullmatch(name) and type(module.act_fn).__name__ in SILU:
            module.forward = MethodType(_feed_forward, module)


def _norm(self: Any, x: Tensor) -> Tensor:
    return RMSNorm.apply(x, self.weight, self.variance_epsilon)


def _feed_forward(self: Any, x: Tensor) -> Tensor:
    return self.down_proj(GatedProduct.apply(self.gate_proj(x), self.up_proj(x)))


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
