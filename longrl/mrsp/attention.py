"""Shared-prefix attention: B prompts, each with G responses that see their prompt and themselves.

A row of the batch is packed `[prompt | r_1 | ... | r_G]`: prompts right-padded to P tokens, responses to R. Instead of
a block mask over P + G·R tokens, the cascade makes three calls of a flash kernel (`longrl.mrsp.kernels`):
    1. prompt queries, causal, over the prompt;
    2. all G·R response queries at once, over the prompt's keys (never copied; the prompt's padding is hidden);
    3. response queries, causal, over their own response;
and merges (2) and (3) by their log-sum-exp. The last layer leaves out (1): nothing reads the prompt's last hidden
states. Backward runs the kernels' backward for each part with the *merged* output and log-sum-exp, as ring attention
does (Liu et al. 2023, arXiv:2310.01889), and adds up the gradients of the prompt's keys and values. `concatenated` is
the plain-autograd oracle.

Shapes: B rows, A query heads, K key heads, n = A / K, P prompt, G responses, R response, L = P + G·R, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from longrl.mrsp.kernels import kernel_for
from longrl.mrsp.ulysses import Shards

NAME = "longrl_shared_prefix"


@dataclass(frozen=True)
class Layout:
    """How a row is packed. `prompts` are the B true prompt lengths; None when all are P.

    With `shards` the row is cut over a group of ranks, and attention sees the whole of it for some of the heads.
    """

    prompt: int  # P
    responses: int  # G
    response: int  # R
    prompts: Tensor | None = None
    kernel: Literal["cascade", "concatenated"] = "cascade"
    shards: Shards | None = None

    @property
    def tokens(self) -> int:
        """L, without what pads a row to equal slices."""
        return self.prompt + self.responses * self.response

    def unread(self, width: int) -> int:
        """Columns of prompts, which all come first, in this rank's slice of `width` columns."""
        start = 0 if self.shards is None else self.shards.rank * width
        return min(max(self.prompt - start, 0), width)


def register() -> None:
    """Make the attention known to transformers under `NAME`; without a layout it is plain SDPA."""
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function of transformers: (B, A, L, d), (B, K, L, d) x 2 -> (B, L, A, d); slices of L with shards."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout.shards is not None:
        query, key, value = layout.shards.to_heads(query, key, value, layout.tokens)
    if layout.kernel == "cascade":
        last = module.layer_idx == module.config.num_hidden_layers - 1
        out = Cascade.apply(query, key, value, layout, scale, last)
    else:
        out = concatenated(query, key, value, layout, scale)
    if layout.shards is not None:
        out = layout.shards.to_tokens(out)
    return out.transpose(1, 2), None


def split(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """(B, heads, L, d) -> prompt (B, heads, P, d) and responses (B, heads, G, R, d)."""
    return x[:, :, : layout.prompt], x[:, :, layout.prompt :].unflatten(2, (layout.responses, layout.response))


def rows(x: Tensor) -> Tensor:
    """(B, heads, G, R, d) -> (B·G, heads, R, d): one row for each response."""
    return x.transpose(1, 2).flatten(0, 1)


def unrows(x: Tensor, layout: Layout) -> Tensor:
    """(B·G, heads, R, d) -> (B, heads, G·R, d)."""
    return x.unflatten(0, (-1, layout.responses)).transpose(1, 2).flatten(2, 3)


def concatenated(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """The same result by plain SDPA over copies of the prompt's keys: the oracle of the tests."""
    G, R, P = layout.responses, layout.response, layout.prompt
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    (qp, qr), (kp, kr), (vp, vr) = (split(x, layout) for x in (query, key, value))
    prompt = F.scaled_dot_product_attention(qp, kp, vp, is_causal=True, scale=scale)
    mask = torch.ones(R, P + R, dtype=torch.bool, device=query.device).tril(P).expand(query.shape[0], 1, -1, -1)
    if layout.prompts is not None:
        seen = torch.arange(P + R, device=query.device)[None]
        seen = (seen < layout.prompts.to(query.device)[:, None]) | (seen >= P)
        mask = mask & seen[:, None, None]
    whole = [torch.cat([rows(p[:, :, None].expand(-1, -1, G, -1, -1)), rows(r)], 2) for p, r in ((kp, kr), (vp, vr))]
    mask = mask.repeat_interleave(G, 0)
    own = F.scaled_dot_product_attention(rows(qr), whole[0], whole[1], attn_mask=mask, scale=scale)
    return torch.cat([prompt, unrows(own, layout)], 2)


class Cascade(torch.autograd.Function):
    """Cascade attention by the kernel of the tensors' device (see `longrl.mrsp.kernels`); in the `last` layer the
    prompt's outputs are zeros."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, last: bool
    ) -> Tensor:
        kernel, heads, shared = kernel_for(query), query.shape[1], key.shape[1]
        (qp, qr), (kp, kr), (vp, vr) = (split(x, layout) for x in (query, key, value))
        prompt, prompt_lse = (torch.zeros_like(qp), None) if last else kernel.forward(qp, kp, vp, True, scale)
        across, across_lse = kernel.forward(_fold(qr, shared), kp, vp, False, scale, layout.prompts)
        across, across_lse = (_unfold(x, heads, layout) for x in (across, across_lse[..., None]))
        own, own_lse = kernel.forward(rows(qr), rows(kr), rows(vr), True, scale)
        own, own_lse = unrows(own, layout), unrows(own_lse[..., None], layout)
        lse = torch.logaddexp(across_lse, own_lse)
        merged = across * (across_lse - lse).exp() + own * (own_lse - lse).exp()
        B, A, L, d = query.shape
        out = query.new_empty(B, L, A, d).transpose(1, 2)  # as transformers joins the heads: nothing is kept twice
        out[:, :, : layout.prompt], out[:, :, layout.prompt :] = prompt, merged
        ctx.save_for_backward(query, key, value, out, prompt_lse, lse)
        ctx.layout, ctx.scale, ctx.last = layout, scale, last
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, out, prompt_lse, lse = ctx.saved_tensors
        layout, scale, kernel = ctx.layout, ctx.scale, kernel_for(query)
        heads, shared = query.shape[1], key.shape[1]
        (gp, gr), (qp, qr), (kp, kr), (vp, vr), (prompt, merged) = (
            split(x, layout) for x in (grad, query, key, value, out)
        )
        lse = lse.unflatten(2, (layout.responses, layout.response))
        dq1, dk1, dv1 = kernel.backward(
            _fold(gr, shared), _fold(qr, shared), kp, vp, _fold(merged, shared), _fold(lse, shared)[..., 0],
            False, scale, layout.prompts,
        )  # fmt: skip
        dq2, dk2, dv2 = kernel.backward(
            rows(gr), rows(qr), rows(kr), rows(vr), rows(merged), rows(lse)[..., 0], True, scale
        )
        dqp = torch.zeros_like(qp)
        if not ctx.last:
            dqp, dkp, dvp = kernel.backward(gp, qp, kp, vp, prompt, prompt_lse, True, scale)
            dk1, dv1 = dk1 + dkp, dv1 + dvp
        dq = torch.cat([dqp, _unfold(dq1, heads, layout) + unrows(dq2, layout)], 2)
        dk = torch.cat([dk1, unrows(dk2, layout)], 2)
        dv = torch.cat([dv1, unrows(dv2, layout)], 2)
        return dq, dk, dv, None, None, None


def _fold(x: Tensor, shared: int) -> Tensor:
    """(B, A, G, R, d) -> (B, K, n·G·R, d): all queries of a key head in one call."""
    return x.unflatten(1, (shared, -1)).flatten(2, 4)


def _unfold(x: Tensor, heads: int, layout: Layout) -> Tensor:
    """(B, K, n·G·R, d) -> (B, A, G·R, d)."""
    return x.unflatten(2, (heads // x.shape[1], -1)).flatten(1, 2)
