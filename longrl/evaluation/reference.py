"""Generation through transformers, from the same cached embeddings: what vLLM's answers are compared with.

A stand-in for `rollout.vllm.Engine` where it is the answers that matter, not the speed: one prompt at a time, its
prefill shared by its samples. Greedy text equals vLLM's but for ties of rounding; samples are drawn from the same
distribution by torch's generator, so with a seed they are the same again, though not vLLM's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from longrl.models.base import Student
from longrl.rollout.request import Request, Rollout

# Shapes: n samples, L tokens of the prompt, H hidden, W width of embeddings, A axes of positions, V vocabulary.


class Reference:
    """Continues prompts with a student as it is."""

    def __init__(self, student: Student):
        self.student = student
        student.model.eval()

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Continue each request, `n` rollouts each, in the order of requests; see `rollout.vllm.Engine.generate`."""
        return [self._continue(request) for request in requests]

    @torch.no_grad()
    def _continue(self, request: Request) -> list[Rollout]:
        student, prompt = self.student, request.prompt
        sampled = request.temperature > 0
        n = request.n if sampled else 1
        draws = [torch.Generator().manual_seed(request.seed + i) for i in range(n)]
        positions_AT = student.positions(prompt, request.max_tokens)
        ids_1L = torch.tensor([prompt.expanded], device=student.device)
        cache, length = DynamicCache(config=student.text_config), ids_1L.shape[1]
        media = {pad: torch.cat(rows).to(student.device) for pad, rows in prompt.by_pad(request.embeds).items()}
        embeds = student.token_embeds(ids_1L, media)
        logits_nV = self._next(embeds, positions_AT[:, :length], cache).expand(n, -1)
        if n > 1:
            cache.batch_repeat_interleave(n)
        rows: list[list[int]] = [[] for _ in range(n)]
        logprobs: list[list[float]] = [[] for _ in range(n)]
        ended = [False] * n
        for step in range(request.max_tokens):
            chosen = []
            for i, logits_V in enumerate(logits_nV.float().cpu()):
                scores_V = torch.log_softmax(logits_V / (request.temperature if sampled else 1.0), -1)
                token = int(torch.multinomial(scores_V.exp(), 1, generator=draws[i]) if sampled else scores_V.argmax())
                chosen.append(token)
                if not ended[i]:
                    rows[i].append(token)
                    logprobs[i].append(float(scores_V[token]))
                    ended[i] = token == student.chat.end
            if all(ended) or step + 1 == request.max_tokens:
                break
            embeds = student.token_embeds(torch.tensor(chosen, device=student.device)[:, None])
            logits_nV = self._next(embeds, positions_AT[:, length + step : length + step + 1], cache)
        finishes = ["stop" if done else "length" for done in ended]
        texts = [student.chat.decode(ids) for ids in rows]
        rollouts = [Rollout(*each) for each in zip(rows, logprobs, texts, finishes, strict=True)]
        return rollouts if sampled else rollouts * request.n

    def _next(self, embeds_nLW: Tensor, positions_AL: Tensor, cache: DynamicCache) -> Tensor:
        """Logits (n, V) after the last of these tokens, which the cache then holds."""
        positions_AnL = positions_AL[:, None].expand(-1, embeds_nLW.shape[0], -1)
        hidden_nLH = self.student.text_hidden(embeds_nLW, positions_AnL, cache=cache)
        return hidden_nLH[:, -1] @ self.student.head.T
