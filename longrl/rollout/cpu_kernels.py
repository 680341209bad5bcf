"""What makes vLLM's CPU backend quicker for small models: its own compiled kernels, and less around small operations.

A decoding step of a small model is bound by the number of operations, not by their size: with these kernels it takes
about a sixth less time. They go in through vLLM's own doors: an implementation of its norms (`vllm.ir`) that the engine
is told to prefer (`PREFERRED`), and a rotary embedding in the place of its class (`CustomOp.register_oot`). For the
third there is no door: the rank of a sampled token, one comparison and one sum that vLLM wraps in `torch.compile`, is
computed by the function inside. Compiling it takes a second of the first step, and makes no later one quicker.

M-RoPE takes each frequency from one of three positions. Once a step, not once a layer, the cosines and sines of each
token are put together; after that it is the ordinary rotation of token i by row i of that table.

Shapes: N tokens, H hidden, d rotated dimensions of a head.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

NAME = "longrl_cpu"
PREFERRED = {"ir_op_priority": {"rms_norm": [NAME], "fused_add_rms_norm": [NAME]}}  # arguments of the engine


@cache
def register() -> None:
    """Make the kernels known to vLLM in this process, before its engine is made; they are for CPU engines only."""
    from vllm import ir
    from vllm.forward_context import get_forward_context, is_forward_context_available
    from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding, apply_interleaved_rope
    from vllm.platforms import current_platform
    from vllm.v1.sample import sampler

    current_platform.import_kernels()
    ranks: Any = sampler.batched_count_greater_than
    sampler.batched_count_greater_than = getattr(ranks, "_torchdynamo_orig_callable", ranks)
    kernels: Any = torch.ops._C

    def fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
        return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()

    def both_fit(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> bool:
        return fits(x, weight, epsilon, variance_size) and x_residual.is_contiguous()

    @ir.ops.rms_norm.register_impl(NAME, supports_args=fits)
    def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
        out = torch.empty_like(x)
        kernels.rms_norm(out, x, weight, epsilon)
        return out

    @ir.ops.fused_add_rms_norm.register_impl(NAME, supports_args=both_fit, inplace=True)
    def fused_add_rms_norm(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual

    @MRotaryEmbedding.register_oot()
    class CpuMRotaryEmbedding(MRotaryEmbedding):
        """The same rotation by vLLM's kernel for one position a token."""

        step: Any = None  # vLLM's context of the forward that `table` is for
        table: Tensor  # (N, d): cosines, sines
        rows: Tensor  # (N,): 0, 1, ...

        def forward_cpu(
            self, positions: Tensor, query: Tensor, key: Tensor | None = None, offsets: Tensor | None = None
        ) -> tuple[Tensor, Tensor | None]:
            if positions.ndim == 1 or offsets is not None or not is_forward_context_available():
                return self.forward_native(positions, query, key, offsets)
            if self.step is not (step := get_forward_context()):
                self.step, self.table = step, self._joined(positions, query)
                self.rows = torch.arange(len(self.table))
            kernels.rotary_embedding(self.rows, query, key, self.head_size, self.table, self.is_neox_style)
            return query, key

        def _joined(self, positions: Tensor, query: Tensor) -> Tensor:
            """(3, N) -> (N, d)."""
            parts = self._match_cos_sin_cache_dtype(query)[positions].chunk(2, dim=-1)
            sections = self.mrope_section or []
            if self.mrope_interleaved:
                return torch.cat([apply_interleaved_rope(part, sections) for part in parts], -1)
            return torch.cat([m[i] for part in parts for i, m in enumerate(part.split(sections, dim=-1))], -1)
