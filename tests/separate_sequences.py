"""The oracle of shared prefixes: whole sequences one by one through transformers' own forward, full logits.

With `exact_norms` everything is in the model's dtype: transformers' RMSNorm casts to float32, in a float64 model too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longrl.models.base import Student
from longrl.models.prompt import Prompt


def exact_norm(self, x: Tensor) -> Tensor:
    """RMSNorm in the dtype of x; to be put in place of `Qwen2_5_VLRMSNorm.forward`."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def video(student: Student, prompt: Prompt, seed: int = 0) -> tuple[Tensor, ...]:
    """Random embeddings of the prompt's media."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(medium.tokens, student.width) for medium in prompt.media]
    return tuple(torch.randn(shape, generator=random).to(student.model.dtype) for shape in shapes)


def separate(
    student: Student,
    prompt: Prompt,
    embeds: Sequence[Tensor],
    responses: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[Tensor]:
    """Logprobs of each response's tokens, each response in a sequence of its own."""
    out = []
    for response in responses:
        ids = torch.tensor([prompt.expanded + list(response)])
        start = len(prompt.expanded)
        inputs = student.model.get_input_embeddings()(ids)
        if embeds:
            at = torch.arange(len(prompt.head), len(prompt.head) + prompt.media_tokens)
            inputs = inputs.index_copy(1, at, embeds[0][None])
        positions = student.positions(prompt, extra=len(response))[:, None]
        student.model.set_attn_implementation({"text_config": "sdpa"})
        logits = student.model(inputs_embeds=inputs, position_ids=positions, use_cache=False).logits
        student.prepare()
        scores = (logits[0, start - 1 : -1] / temperature).log_softmax(-1)
        out.append(scores.gather(1, ids[0, start:, None])[:, 0])
    return out


def gradients(student: Student, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Gradients of a fixed random combination of all logprobs, by parameter."""
    student.model.zero_grad()
    weights = torch.Generator().manual_seed(3)
    loss = sum((row * torch.randn(len(row), generator=weights, dtype=torch.float64)).sum() for row in rows)
    loss.backward()  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}


def relative(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|; a gradient that is zero but for rounding (that of key biases) counts by itself."""
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-6))
