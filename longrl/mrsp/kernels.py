"""Attention kernels that return the log-sum-exp, and their backward: the parts a cascade is made of.

A kernel's backward takes the output and the log-sum-exp it shall differentiate with. Given those of a larger softmax it
returns the gradients of its own part of it, which is what lets parts be merged without ever meeting in one call.

    CpuFlash    torch's flash attention of the CPU
    Varlen      flash attention on CUDA for sequences of any lengths: flash-attn's when installed, else torch's own
    Blocks      matrix products, a block of queries at a time: any device, any dtype

Shapes: B rows, A query heads, K key heads (K divides A), n = A / K, Lq queries, Lk keys, d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

BLOCK = 256  # queries whose scores exist at one time in `Blocks`
HALVES = (torch.float16, torch.bfloat16)


class Kernel(Protocol):
    """Attention of queries (B, A, Lq, d) to keys and values (B, K, Lk, d).

    With `causal` Lq equals Lk and query i sees keys 0..i. `lengths` (B,) is how many keys of each row exist; the others
    are padding, and get no gradient.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Output like `query`, and log-sum-exp (B, A, Lq) of at least float32."""

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value, given that of `out`."""


def kernel_for(query: Tensor) -> Kernel:
    """The fastest kernel for tensors like this one."""
    if query.device.type == "cpu":
        return CpuFlash()
    if query.device.type == "cuda" and query.dtype in HALVES and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256:
        return cuda_flash()
    return Blocks()


class CpuFlash:
    """`aten._scaled_dot_product_flash_attention_for_cpu`: as many key heads as query heads, padding by a bias."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        n = query.shape[1] // key.shape[1]
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, _repeat(key, n), _repeat(value, n), 0.0, causal, attn_mask=_bias(lengths, query, key), scale=scale
        )

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = query.shape[1] // key.shape[1]
        lse = lse.transpose(1, 2).contiguous().transpose(1, 2)  # the kernel reads it as (B, Lq, A) in memory
        dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, _repeat(key, n), _repeat(value, n), out, lse, 0.0, causal,
            attn_mask=_bias(lengths, query, key), scale=scale,
        )  # fmt: skip
        return dq, _gather(dk, n), _gather(dv, n)


Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool, float], tuple[Tensor, Tensor]]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool, float],
    tuple[Tensor, Tensor, Tensor],
]


class Varlen:
    """Flash attention over packed sequences: (tokens, heads, d), and where each sequence ends.

    Key heads are never copied: the kernels know of groups. The padding of a row is a sequence of its own that no query
    looks at, so neither keys nor values have to be moved together.
    """

    def __init__(self, forward: Forward, backward: Backward):
        self._forward, self._backward = forward, backward

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        ends = _ends(query, key, lengths)
        out, lse = self._forward(
            _pack(query), _pack(key), _pack(value), *ends, query.shape[2], key.shape[2], causal, scale
        )
        return _unpack(out, query), lse.unflatten(1, (-1, query.shape[2])).transpose(0, 1)

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ends_q, ends_k = _ends(query, key, lengths)
        lse = lse.transpose(0, 1).flatten(1).contiguous()
        dq, dk, dv = self._backward(
            _pack(grad), _pack(query), _pack(key), _pack(value), _pack(out), lse, ends_q, ends_k,
            query.shape[2], key.shape[2], causal, scale,
        )  # fmt: skip
        return _unpack(dq, query), _unpack(dk, key), _unpack(dv, value)


@cache
def cuda_flash() -> Varlen:
    """flash-attn's varlen kernel when the package is installed, else the one in torch."""
    return _flash_attn() if find_spec("flash_attn") else _torch_flash()


def _flash_attn() -> Varlen:
    from flash_attn import flash_attn_interface as flash

    def forward(q, k, v, ends_q, ends_k, longest_q, longest_k, causal, scale):  # type: ignore[no-untyped-def]
        out, lse, *_ = flash._flash_attn_varlen_forward(
            q, k, v, ends_q, ends_k, longest_q, longest_k, dropout_p=0.0, softmax_scale=scale, causal=causal
        )
        return out, lse

    def backward(grad, q, k, v, out, lse, ends_q, ends_k, longest_q, longest_k, causal, scale):  # type: ignore[no-untyped-def]
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        flash._flash_attn_varlen_backward(
            grad, q, k, v, out, lse, *gradients, ends_q, ends_k, longest_q, longest_k, dropout_p=0.0,
            softmax_scale=scale, causal=causal, window_size_left=-1, window_size_right=-1, softcap=0.0,
            alibi_slopes=None, deterministic=torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip
        return gradients

    return Varlen(forward, backward)


def _torch_flash() -> Varlen:
    aten: Any = torch.ops.aten

    def forward(q, k, v, ends_q, ends_k, longest_q, longest_k, causal, scale):  # type: ignore[no-untyped-def]
        out, lse, *_ = aten._flash_attention_forward(
            q, k, v, ends_q, ends_k, longest_q, longest_k, 0.0, causal, False, scale=scale
        )
        return out, lse

    def backward(grad, q, k, v, out, lse, ends_q, ends_k, longest_q, longest_k, causal, scale):  # type: ignore[no-untyped-def]
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of the dropout that there isn't
        return aten._flash_attention_backward(
            grad, q, k, v, out, lse, ends_q, ends_k, longest_q, longest_k, 0.0, causal, state, state[0], scale=scale
        )

    return Varlen(forward, backward)


class Blocks:
    """Softmax written out, `BLOCK` queries at a time; key heads are broadcast, not copied."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        heads = key.shape[1]
        outs, sums = [], []
        for start in range(0, query.shape[2], BLOCK):
            part = query[:, :, start : start + BLOCK].unflatten(1, (heads, -1))
            scores = self._scores(part, key, start, causal, scale, lengths)
            sums.append(scores.logsumexp(-1))
            weights = (scores - sums[-1][..., None]).exp().to(value.dtype)
            outs.append(weights @ value[:, :, None])
        return torch.cat(outs, 3).flatten(1, 2), torch.cat(sums, 3).flatten(1, 2)

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = [], torch.zeros_like(key), torch.zeros_like(value)
        for start in range(0, query.shape[2], BLOCK):
            q, g, o, total = (
                x[:, :, start : start + BLOCK].unflatten(1, (key.shape[1], -1)) for x in (query, grad, out, lse)
            )
            weights = (self._scores(q, key, start, causal, scale, lengths) - total[..., None]).exp()
            dv += torch.einsum("bknqs,bknqd->bksd", weights.to(g.dtype), g)
            slope = (g @ value[:, :, None].mT).to(weights.dtype) - (g * o).sum(-1, keepdim=True)
            slope = (weights * slope * scale).to(q.dtype)
            dq.append(slope @ key[:, :, None])
            dk += torch.einsum("bknqs,bknqd->bksd", slope, q)
        return torch.cat(dq, 3).flatten(1, 2), dk, dv

    @staticmethod
    def _scores(query: Tensor, key: Tensor, start: int, causal: bool, scale: float, lengths: Tensor | None) -> Tensor:
        """Scores (B, K, n, block, Lk) of queries (B, K, n, block, d) that begin at `start`, in at least float32."""
        scores = (query @ key[:, :, None].mT).to(torch.promote_types(query.dtype, torch.float32)) * scale
        keys = torch.arange(key.shape[2], device=key.device)
        if causal:
            rows = torch.arange(start, start + query.shape[3], device=key.device)
            scores = scores.masked_fill(keys > rows[:, None], float("-inf"))
        if lengths is not None:
            hidden = keys >= lengths.to(key.device)[:, None]
            scores = scores.masked_fill(hidden[:, None, None, None], float("-inf"))
        return scores


def _repeat(x: Tensor, n: int) -> Tensor:
    return x if n == 1 else x.repeat_interleave(n, 1)


def _gather(x: Tensor, n: int) -> Tensor:
    """Sum the gradients of the n query heads of a key head: (B, A, L, d) -> (B, K, L, d)."""
    return x if n == 1 else x.unflatten(1, (-1, n)).sum(2)


def _bias(lengths: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Additive mask (B, 1, 1, Lk) that hides the padding of keys."""
    if lengths is None:
        return None
    hidden = torch.arange(key.shape[2], device=key.device)[None] >= lengths.to(key.device)[:, None]
    return torch.zeros(hidden.shape, dtype=query.dtype, device=key.device).masked_fill(hidden, float("-inf"))[
        :, None, None
    ]


def _pack(x: Tensor) -> Tensor:
    """(B, heads, L, d) -> (B·L, heads, d)."""
    return x.transpose(1, 2).flatten(0, 1)


def _unpack(x: Tensor, like: Tensor) -> Tensor:
    """(B·L, heads, d) -> (B, heads, L, d)."""
    return x.unflatten(0, (-1, like.shape[2])).transpose(1, 2)


def _ends(query: Tensor, key: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where sequences of queries and keys begin and end, int32: B + 1 each, or 2B + 1 with each row's padding."""
    rows = torch.arange(query.shape[0] + 1, device=query.device)
    q, k = rows * query.shape[2], rows * key.shape[2]
    if lengths is not None:
        q = torch.stack([q[:-1], q[1:]], 1).flatten()
        q = torch.cat([q, q[-1:]])
        k = torch.cat([torch.stack([k[:-1], k[:-1] + lengths.to(k.device)], 1).flatten(), k[-1:]])
    return q.int(), k.int()
