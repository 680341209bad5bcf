"""vLLM's compiled CPU kernels against its own chains of small operations."""

import pytest
import torch

from longrl.rollout import cpu_kernels
from longrl.rollout.guest import environment, undisturbed

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="they are for vLLM's CPU backend")


@pytest.fixture(scope="module")
def ir():
    with undisturbed(), environment():
        from vllm import ir

        cpu_kernels.register()
        return ir


@pytest.mark.parametrize("rows", [1, 7])
def test_norms_are_those_of_vllm(ir, rows):
    torch.manual_seed(0)
    x, residual, weight = torch.randn(rows, 64), torch.randn(rows, 64), torch.randn(64)
    norm, fused = ir.ops.rms_norm.impls, ir.ops.fused_add_rms_norm.impls
    theirs = norm["native"].impl_fn(x, weight, 1e-6)
    assert torch.allclose(norm[cpu_kernels.NAME].impl_fn(x, weight, 1e-6), theirs, atol=1e-6)
    theirs = fused["native"].impl_fn(x, residual, weight, 1e-6)
    ours = fused[cpu_kernels.NAME].impl_fn(x.clone(), residual.clone(), weight, 1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_what_the_kernels_do_not_take_is_left_to_vllm(ir):
    kernel = ir.ops.rms_norm.impls[cpu_kernels.NAME]
    x, weight = torch.randn(4, 64), torch.randn(64)
    assert kernel.supports_args(x, weight, 1e-6)
    assert not kernel.supports_args(x, None, 1e-6)
    assert not kernel.supports_args(x, weight.double(), 1e-6)
    assert not kernel.supports_args(x.T.contiguous().T, weight, 1e-6)
    assert not kernel.supports_args(x, weight, 1e-6, 32)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_by_three_positions_is_that_of_vllm(ir, interleaved):
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.forward_context import set_forward_context
    from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

    config = VllmConfig()
    with set_current_vllm_config(config):
        rope = MRotaryEmbedding(32, 32, 128, 1000.0, True, torch.float32, [8, 4, 4], interleaved)
    assert type(rope).__name__ == "CpuMRotaryEmbedding"
    torch.manual_seed(0)
    for _ in range(2):  # a new step has new positions
        positions, joined = torch.randint(0, 200, (3, 5)), torch.randn(5, (4 + 2) * 32)
        query, key = joined.split([4 * 32, 2 * 32], dim=-1)  # views, as the attention hands them in
        theirs = rope.forward_native(positions, query, key)
        with set_forward_context(None, config):
            for _ in range(2):  # two layers
                ours = rope.forward_cpu(positions, query.clone(), key.clone())
                for one, other in zip(ours, theirs, strict=True):
                    assert torch.allclose(one, other, atol=1e-6)
            split = rope.forward_cpu(positions, query, key)  # in place
        for one, other in zip(split, theirs, strict=True):
            assert torch.allclose(one, other, atol=1e-6)
