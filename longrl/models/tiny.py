"""A tiny model of a family, built from its configuration: about a million parameters, enough to learn on a laptop.

`build_tiny` saves an ordinary Hugging Face folder (configuration, weights, tokenizer, processor, chat template), which
transformers and vLLM load with their own code. Where it departs from the textbook:

1. The tokenizer is a byte-level BPE trained on the teacher's own texts, so that nearly every word is one token.
2. The weights start *mimetic* (Trockman & Kolter 2023, arXiv:2305.09828). In the first layer some heads look one, two
   and three tokens back; in the second, heads look for what stood before their own token elsewhere. This is the shape
   every trained transformer's induction heads take (Olsson et al. 2022, arXiv:2209.11895); a model this small would
   spend most of its few minutes finding it. No knowledge of any task or word is put in.
3. The filters of the vision tower start smooth: mean, slope and change in time of each colour over a patch, mixed at
   random, as in any trained tower, instead of white noise in which a plain blob of colour drowns.
4. The rotary frequencies are shared out 1/2 : 1/4 : 1/4 between time, height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from longrl.config import ModelSettings
from longrl.models.families import class_of

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKS = ("<think>", "</think><answer>", "</answer>", " (A)", " (B)", " (C)", " (D)")  # one token each, kept in text
ROLES = ("user\n", "assistant\n") * 100  # words of the chat format, so that they are one token too
WORDS = r" ?[^\s.,?()<>]+|\n-?|[.,?()<>]|\s"  # what the BPE may not merge across
PATCH, MERGE = 14, 2  # pixels a patch, patches a token (per side)
PIXELS = {  # of a Qwen processor: frames are allowed from one merged token (28x28 pixels) on
    "size": {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 4096 * (PATCH * MERGE) ** 2},
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": 2,
}
SHARP = 2.1  # of norms of queries and keys in the first layer: scores of about 25 for the token looked for
LAST = ("down_proj", "fc2", "linear_fc2")  # what a tower's feed-forward part writes with, as families call it
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny(folder: Path, settings: ModelSettings, corpus_texts: Iterable[str], seed: int) -> Path:
    """Build a model of `settings.family` and save it in `folder`, which is returned.

    `corpus_texts` train the tokenizer: prompts, responses and captions of the training split. Equal arguments give
    equal weights and an equal tokenizer. Raises `StudentError` when there is no such family, or no tiny one of it.
    """
    family = class_of(settings.family)
    tokenizer = train_tokenizer(chain(corpus_texts, family.TEXTS), settings.vocabulary, SPECIAL + family.TOKENS)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = family.MODEL(family.tiny_config(tokenizer, settings))
    finally:
        torch.random.set_rng_state(state)
    family.tiny_start(model, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    family.tiny_processor(tokenizer).save_pretrained(folder)
    return folder


def train_tokenizer(texts: Iterable[str], vocabulary: int, special: Sequence[str] = SPECIAL) -> Any:
    """A byte-level BPE of at most `vocabulary` tokens (special ones included); any text survives a round trip."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        chain(texts, ROLES),
        trainers.BpeTrainer(
            vocab_size=vocabulary - len(MARKS),
            special_tokens=list(special),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    bpe.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT,
        additional_special_tokens=list(special),
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


def tower_sizes(settings: ModelSettings) -> dict[str, Any]:
    """What the `vision_config` of every tiny Qwen model from 2.5 on has in common."""
    return {
        "depth": settings.vision_depth,
        "hidden_size": settings.vision_width,
        "intermediate_size": 2 * settings.vision_width,
        "num_heads": 4,
        "out_hidden_size": settings.hidden_size,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "initializer_range": settings.initializer_range,
    }


def text_sizes(tokenizer: Any, settings: ModelSettings, axes: int = 3) -> dict[str, Any]:
    """The `text_config` of a tiny Qwen model; the vocabulary is padded to a multiple of 64.

    With one axis of positions the rotary frequencies are not shared out.
    """
    half = settings.hidden_size // settings.heads // 2
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": settings.rope_theta}
    if axes == 3:
        rope["mrope_section"] = [half - 2 * (half // 4), half // 4, half // 4]
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.feed_forward,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.heads,
        "max_position_embeddings": 32768,
        "initializer_range": settings.initializer_range,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "tie_word_embeddings": True,
    }


def media_tokens(tokenizer: Any) -> dict[str, Any]:
    """What a Qwen-VL configuration says beside its two parts."""
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    ids = {field: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for field, name in names.items()}
    return ids | {"tie_word_embeddings": True}


@torch.no_grad()
def start_attention(
    language_model: Any, seed: int, match: float = 1.6, write: float = 0.08, back: int = 3
) -> torch.Tensor | None:
    """Set the language model's attention to its mimetic start; everything else keeps its random weights.

    `match` scales queries and keys, `write` what heads add to the residual stream, `back` is how many heads of the
    first layer look back, by 1 … `back` tokens. R below is an orthogonal basis [D, D], of which head h owns the rows
    R[h] [K, D]; D is the width, K = D / heads.

    What looks back needs queries and keys that don't depend on the token. Where these have no biases (Qwen3), they read
    a part that all embeddings have in common, which is given to them here, which nothing else reads, and which is
    returned [D]: what comes from a tower must have it too.
    """
    generator = torch.Generator().manual_seed(seed)
    config = language_model.config
    width, heads = config.hidden_size, config.num_attention_heads
    K = width // heads
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(K // 2) * 2 / K)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def basis() -> torch.Tensor:
        return torch.linalg.qr(noise(width, width))[0].view(heads, K, width)

    common = None
    if language_model.layers[0].self_attn.q_proj.bias is None:
        common = noise(width)
        common *= language_model.embed_tokens.weight.norm(dim=1).mean() / common.norm()
        language_model.embed_tokens.weight.add_(common)
    reader = None if common is None else common / common.norm() * (2 / width) ** 0.5  # 1 after the first norm

    def blind(rows: torch.Tensor) -> torch.Tensor:
        """Rows [..., D] that don't read the common part."""
        return rows if reader is None else rows - (rows @ reader)[..., None] * reader * (width / 2)

    R = blind(basis())
    for index, layer in enumerate(language_model.layers):
        attention, Q, V = layer.self_attn, blind(basis()), blind(basis())
        q, k, v, o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        layer.mlp.down_proj.weight.copy_(0.02 * noise(*layer.mlp.down_proj.weight.shape))
        for h in range(heads):
            own, nearby = slice(h * K, (h + 1) * K), min(back, heads - 1)
            if index == 0 and h < nearby:  # look h + 1 tokens back: slot h + 1 names that token
                q.weight[own] *= 0.1
                k.weight[own] *= 0.1
                sharp = 6.0 * (frequency > 0.1)
                turn = (h + 1) * frequency
                key = torch.cat([sharp, torch.zeros_like(sharp)])
                query = torch.cat([sharp * turn.cos(), -sharp * turn.sin()])
                if reader is None:
                    k.bias[own], q.bias[own] = key, query
                else:
                    k.weight[own] += key[:, None] * reader
                    q.weight[own] += query[:, None] * reader
                v.weight[own], o.weight[:, own] = R[0], 3 * write * R[(h + 1) % heads].T
            elif index == 1:  # find where what stands h tokens back stood h + 1 tokens back, and copy what came then
                q.weight[own], k.weight[own] = match * R[h % nearby], match * R[(h % nearby + 1) % heads]
                v.weight[own], o.weight[:, own] = V[h], write * V[h].T
            else:  # find one's like, and copy it
                q.weight[own] = k.weight[own] = match * Q[h]
                v.weight[own], o.weight[:, own] = V[h], write * V[h].T
        for matrix in (q, k, v, o):
            matrix.weight.add_(0.01 * noise(*matrix.weight.shape))
        if hasattr(attention, "q_norm"):  # what the norms take away from the scores' sharpness, they give back
            sharpness = SHARP if index == 0 else match
            attention.q_norm.weight.fill_(sharpness)
            attention.k_norm.weight.fill_(sharpness)
    return common


@torch.no_grad()
def start_vision(tower: Any, seed: int, branch: float = 0.25) -> None:
    """Make the patch filters smooth, and scale what each block adds by `branch`: patches pass at first as they are.

    A filter [C, T, P, P] (colours, frames, pixels) mixes, with normal weights for each colour, products of the first
    two cosines over rows and columns and of mean and difference over the two frames.
    """
    generator = torch.Generator().manual_seed(seed)
    filters = tower.patch_embed.proj.weight  # [width, C, T, P, P]
    width, colours, _, P, _ = filters.shape
    place = (torch.arange(P) + 0.5) / P
    waves = torch.stack([torch.ones(P), 2**0.5 * torch.cos(torch.pi * place)]) / P
    spans = torch.tensor([[0.5, 0.5], [0.5, -0.5]])
    shapes = torch.einsum("at,bi,cj->abctij", spans, waves, waves).flatten(0, 2)
    mix = torch.randn(width, colours, len(shapes), generator=generator)
    filters.copy_(torch.einsum("wcs,stij->wctij", mix, shapes))
    for block in tower.blocks:
        block.attn.proj.weight.mul_(branch)
        [last] = [getattr(block.mlp, name) for name in LAST if hasattr(block.mlp, name)]
        last.weight.mul_(branch)
