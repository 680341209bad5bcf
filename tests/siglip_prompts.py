"""Prompts of every kind for students with a SigLIP tower, and an oracle that knows nothing of shared prefixes."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlavaOnevisionForConditionalGeneration, Qwen2ForCausalLM

from longrl.models.llava_onevision import LlavaOnevision
from longrl.models.vila import VILA
from longrl.video.sample import plan_frames
from tests.siglip_students import SIDE, build_llava, build_vila

BUILDERS = {"vila": build_vila, "llava_onevision": build_llava}
CLASSES = {"vila": VILA, "llava_onevision": LlavaOnevision}


def prompts(student) -> list:
    """A video, an image, a video with two images, a text."""
    film, longer = (student.video(plan_frames(2.0 * n, n, SIDE, SIDE)) for n in (3, 9))
    picture = student.image(SIDE, SIDE)
    ask = student.chat.prompt
    return [
        ask("what moves", [film]),
        ask("who moves to the left", [picture]),
        ask("compare", [picture, longer, picture]),
        ask("which"),
    ]


def plain_model(family: str, folder: Path):
    """(transformers' own model, a function from embeddings (1, L, H) to its logits)."""
    if family == "vila":
        llm = Qwen2ForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32)
        return llm, lambda embeds: llm(inputs_embeds=embeds).logits
    whole = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return whole, lambda embeds: whole.lm_head(whole.model.language_model(inputs_embeds=embeds).last_hidden_state)


def separate(plain, run, prompt, embeds, responses):
    """Logprobs of each response's tokens, each in a whole sequence of its own."""
    rows, look = [], plain.get_input_embeddings()
    pads = {pad for slot in prompt.slots for pad in slot.pads}
    for response in responses:
        ids = [*prompt.expanded, *response]
        given = iter(torch.cat(list(embeds))) if embeds else iter(())
        inputs = [
            next(given) if i < len(prompt) and token in pads else look.weight[token] for i, token in enumerate(ids)
        ]
        scores = run(torch.stack(inputs)[None])[0, len(prompt) - 1 : -1].log_softmax(-1)
        rows.append(scores.gather(1, torch.tensor(response)[:, None])[:, 0])
    return rows
