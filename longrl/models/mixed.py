"""A prompt for vLLM in which media are given by embedding (`enable_prompt_embeds`), and text by token id where it can.

For language models that vLLM knows without their towers, or whose vLLM processor takes no embeddings: any decoder with
one-dimensional positions. The engine embeds ids with its own weights of now, so nothing of the prompt depends on an
older update; a block's name in the prefix cache is made of its ids and its embeddings, so no media are mixed up.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from longrl.models.prompt import Prompt


def mixed_input(prompt: Prompt, embeds: Sequence[Tensor]) -> dict[str, Any]:
    """What `vllm.LLM.generate` takes for this prompt; `embeds` are (tokens, H) for each of its media, in order.

    >>> from longrl.models.prompt import Medium, Slot
    >>> image = Medium("image", 2, (1, 2, 1))
    >>> prompt = Prompt(((5,), Slot((image,), (9,), (9,), (9, 7, 9))), (6,))
    >>> given = mixed_input(prompt, [torch.ones(2, 4)])
    >>> given["prompt_token_ids"], given["prompt_is_token_ids"], given["prompt_embeds"].sum(1).tolist()
    ([5, 0, 7, 0, 6], [True, False, True, False, True], [0.0, 4.0, 0.0, 4.0, 0.0])
    """
    if not prompt.media:
        return {"prompt_token_ids": prompt.expanded}
    ids = torch.tensor(prompt.expanded)
    rows = torch.zeros(len(ids), embeds[0].shape[1], dtype=embeds[0].dtype)
    by_id = torch.ones(len(ids), dtype=torch.bool)
    given = iter(embeds)
    for slot, start in zip(prompt.slots, prompt.starts(), strict=True):
        part = ids[start : start + len(slot.expanded)]
        for pad in slot.pads:
            at = start + (part == pad).nonzero()[:, 0]
            rows[at] = next(given).detach().cpu()
            by_id[at] = False
    return {
        "prompt_embeds": rows,
        "prompt_token_ids": ids.masked_fill(~by_id, 0).tolist(),  # a pad may lie outside the engine's embeddings
        "prompt_is_token_ids": by_id.tolist(),
    }


def embedded_input(prompt: Prompt, embeds: Sequence[Tensor], table: Tensor) -> dict[str, Any]:
    """The same for a server's `/v1/completions`, which takes no ids beside.

    Text is looked up in `table`, the server's own token embeddings (vocabulary, H).
    """
    mixed = mixed_input(prompt, embeds)
    by_id, ids = torch.tensor(mixed["prompt_is_token_ids"]), torch.tensor(mixed["prompt_token_ids"])
    rows = torch.where(by_id[:, None], table[ids].to(mixed["prompt_embeds"].dtype), mixed["prompt_embeds"])
    file = BytesIO()
    torch.save(rows, file)
    return {"prompt_embeds": base64.b64encode(file.getvalue()).decode()}
