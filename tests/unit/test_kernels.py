"""Attention kernels against autograd through a written-out softmax: every kernel, merged parts, ragged keys."""

import pytest
import torch

from longrl.mrsp import kernels
from longrl.mrsp.kernels import Blocks, CpuFlash, Varlen

B, A, K, D = 3, 4, 2, 16


def tensors(queries, keys, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(queries)
    shapes = (B, A, queries, D), (B, K, keys, D), (B, K, keys, D), (B, A, queries, D)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]


def written_out(query, key, value, causal, scale, lengths):
    """(out, log-sum-exp) with a dense mask."""
    n = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(n, 1).mT * scale
    shown = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device)
    shown = (shown.tril() if causal else shown).expand(scores.shape)
    if lengths is not None:
        shown = shown & (torch.arange(key.shape[2], device=query.device) < lengths[:, None])[:, None, None]
    scores = scores.masked_fill(~shown, float("-inf"))
    return scores.softmax(-1) @ value.repeat_interleave(n, 1), scores.logsumexp(-1)


def plain_varlen():
    """`Varlen` around a loop over sequences, in flash-attn's layout: all of it but the CUDA kernels themselves."""

    def sequences(ends_q, ends_k, *checked):
        assert [int(ends_q.diff().max()), int(ends_q[-1]), int(ends_k[-1])] == list(checked)
        bounds = zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True)
        return [(slice(a, b), slice(c, d)) for a, b, c, d in bounds if a < b]

    def forward(q, k, v, ends_q, ends_k, longest_q, longest_k, causal, scale):
        out, lse = torch.empty_like(q), q.new_empty(q.shape[1], len(q))
        for mine, seen in sequences(ends_q, ends_k, longest_q, len(q), len(k)):
            row = (x.transpose(0, 1)[None] for x in (q[mine], k[seen], v[seen]))
            one, total = written_out(*row, causal, scale, None)
            out[mine], lse[:, mine] = one[0].transpose(0, 1), total[0]
        return out, lse

    def backward(grad, q, k, v, out, lse, ends_q, ends_k, longest_q, longest_k, causal, scale):
        slopes = [torch.zeros_like(x) for x in (q, k, v)]
        for mine, seen in sequences(ends_q, ends_k, longest_q, len(q), len(k)):
            row = (x.transpose(0, 1)[None] for x in (grad[mine], q[mine], k[seen], v[seen], out[mine]))
            parts = Blocks().backward(*row, lse[None, :, mine], causal, scale)
            for slope, where, part in zip(slopes, (mine, seen, seen), parts, strict=True):
                slope[where] = part[0].transpose(0, 1)
        return tuple(slopes)

    return Varlen(forward, backward)


KERNELS = {"cpu": CpuFlash, "blocks": Blocks, "varlen": plain_varlen}
CASES = [(7, 7, True, None), (300, 300, True, None), (5, 9, False, None), (5, 9, False, torch.tensor([9, 1, 6]))]


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize(("queries", "keys", "causal", "lengths"), CASES)
def test_kernels_equal_the_written_out_softmax(kind, queries, keys, causal, lengths):
    kernel, scale = KERNELS[kind](), 0.3
    *inputs, grad = tensors(queries, keys)
    for x in inputs:
        x.requires_grad_()
    expected, expected_lse = written_out(*inputs, causal, scale, lengths)
    slopes = torch.autograd.grad(expected, inputs, grad)
    inputs = [x.detach() for x in inputs]
    out, lse = kernel.forward(*inputs, causal, scale, lengths)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse, check_dtype=False)
    for ours, theirs in zip(kernel.backward(grad, *inputs, out, lse, causal, scale, lengths), slopes, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KERNELS)
def test_parts_of_the_keys_merge_into_the_whole(kind):
    """Gradients of a part follow from the *whole* softmax's output and log-sum-exp."""
    kernel = KERNELS[kind]()
    query, key, value, grad = tensors(6, 10)
    whole, total = kernel.forward(query, key, value, False, 0.3)
    expected = kernel.backward(grad, query, key, value, whole, total, False, 0.3)
    parts = [(key[:, :, :4], value[:, :, :4]), (key[:, :, 4:], value[:, :, 4:])]
    outs = [kernel.forward(query, k, v, False, 0.3) for k, v in parts]
    merged = sum(out * (lse - total).exp()[..., None] for out, lse in outs)
    torch.testing.assert_close(merged, whole)
    ours = [kernel.backward(grad, query, k, v, whole, total, False, 0.3) for k, v in parts]
    dq, dk, dv = ours[0][0] + ours[1][0], *(torch.cat([ours[0][i], ours[1][i]], 2) for i in (1, 2))
    for a, b in zip((dq, dk, dv), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_torchs_own_cuda_kernel_takes_and_gives_these_shapes():
    """On the meta device, which checks arguments as CUDA does: key heads are never copied, paddings never moved."""
    kernel = kernels._torch_flash()
    query, key, value, grad = tensors(5, 9, torch.bfloat16, "meta")
    lengths = torch.empty(B, dtype=torch.long, device="meta")
    out, lse = kernel.forward(query, key, value, False, 0.3, lengths)
    assert (out.shape, lse.shape, lse.dtype) == (query.shape, query.shape[:3], torch.float32)
    slopes = kernel.backward(grad, query, key, value, out, lse, False, 0.3, lengths)
    assert [x.shape for x in slopes] == [query.shape, key.shape, value.shape]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("build", [kernels._torch_flash, kernels.cuda_flash])
@pytest.mark.parametrize(("queries", "keys", "causal", "lengths"), CASES)
def test_cuda_kernels_equal_the_written_out_softmax(build, queries, keys, causal, lengths):
    kernel = build()
    lengths = None if lengths is None else lengths.cuda()
    *inputs, grad = tensors(queries, keys, torch.bfloat16, "cuda")
    exact = Blocks()
    wide = [x.double() for x in inputs]
    expected, total = exact.forward(*wide, causal, 0.3, lengths)
    slopes = exact.backward(grad.double(), *wide, expected, total, causal, 0.3, lengths)
    out, lse = kernel.forward(*inputs, causal, 0.3, lengths)
    ours = kernel.backward(grad, *inputs, out, lse, causal, 0.3, lengths)
    for a, b in zip((out, lse, *ours), (expected, total, *slopes), strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-2, rtol=2e-2)
