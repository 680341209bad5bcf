"""The tiny Qwen2.5-VL: an ordinary folder that transformers loads, with a start that can copy from its context."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longrl.config import ModelSettings
from longrl.models.chat import ChatFormat
from longrl.models.tiny import build_tiny

TEXTS = [
    f"Who acts {n}?\n- {a} (A)\n- {b} (B)\n<think>clip 1: {a} visits the {c} tree. so {b} (B)</think><answer>B</answer>"
    for n in ("first", "second") for a in ("red", "black", "cyan") for b in ("white", "purple") for c in ("northwest",)
] * 4  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp("tiny") / "model", ModelSettings(), TEXTS, seed=0)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import Qwen2_5_VLForConditionalGeneration

    loaded, problems = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(problems.values()), problems
    return loaded.eval()


@pytest.fixture(scope="module")
def processor(folder):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


def test_it_has_about_a_million_parameters(model):
    assert 5e5 < sum(parameter.numel() for parameter in model.parameters()) < 5e6


def test_equal_seeds_give_equal_weights_and_others_do_not(folder, tmp_path):
    same = build_tiny(tmp_path / "same", ModelSettings(), TEXTS, seed=0)
    other = build_tiny(tmp_path / "other", ModelSettings(), TEXTS, seed=1)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, same, other)]
    assert weights[0] == weights[1] != weights[2]
    assert (folder / "tokenizer.json").read_text() == (same / "tokenizer.json").read_text()


@pytest.mark.parametrize("text", [*TEXTS[:2], "naïve ¿qué? 東京 🚗\t\n  x", "<|im_end|> is spelled out"])
def test_any_text_survives_the_tokenizer(processor, text):
    chat = ChatFormat(processor.tokenizer)
    ids = chat.encode(text)
    assert processor.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert chat.end not in ids


def test_known_words_letters_and_marks_are_one_token_each(processor):
    chat = ChatFormat(processor.tokenizer)
    assert (
        len(chat.encode("<think>clip 1: red visits the northwest tree. so white (B)</think><answer>B</answer>")) == 15
    )
    assert len(chat.prompt("Who acts first?").compact) == 12


def test_the_processor_takes_small_frames_as_they_are(model, processor):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 56, 56), np.uint8))
    timing = {"total_num_frames": 8, "fps": 4, "frames_indices": list(range(8)), "duration": 2.0}
    inputs = processor(
        text=["<|vision_start|><|video_pad|><|vision_end|>Who acts first?"], videos=[frames], do_sample_frames=False,
        video_metadata=[timing | {"video_backend": "opencv"}], return_tensors="pt",
    )  # fmt: skip
    assert inputs["video_grid_thw"].tolist() == [[4, 4, 4]]
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], model.config.text_config.vocab_size)
    assert torch.isfinite(logits).all()


def test_the_chat_template_is_the_prompt_format(processor):
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who acts first?"}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    chat = ChatFormat(processor.tokenizer)
    written = chat.prompt("Who acts first?", [chat.video((1, 2, 2))]).compact
    assert processor.tokenizer(text)["input_ids"] == written


def test_the_first_layer_starts_by_looking_one_two_and_three_tokens_back(model):
    ids = torch.randint(10, 200, (1, 24), generator=torch.Generator().manual_seed(0))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        first = model(input_ids=ids, output_attentions=True).attentions[0][0]  # [heads, queries, keys]
    for head, back in enumerate((1, 2, 3)):
        assert (first[head, 8:].argmax(-1) == torch.arange(8, 24) - back).float().mean() > 0.9


@pytest.mark.parametrize("fillers", [0, 1, 2])
def test_the_second_layer_starts_by_looking_records_up_past_filler_words(model, fillers):
    """Head h looks from a record's key (h tokens back) to the value that followed the same key before."""
    generator = torch.Generator().manual_seed(0)
    tokens = (10 + torch.randperm(190, generator=generator)).tolist()
    between, length = [tokens.pop() for _ in range(fillers)], fillers + 2
    records = [[tokens.pop(), *between, tokens.pop()] for _ in range(5)]
    asked = [records[i] for i in (3, 0, 4, 1, 2)]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        ids = torch.tensor([sum(records + asked, [])])  # noqa: RUF017 (ten short lists)
        second = model(input_ids=ids, output_attentions=True).attentions[1][0, fillers]  # [queries, keys]
    values = torch.arange(5) * length + fillers + 1
    looks = torch.stack([second[(5 + place) * length + fillers, values] for place in range(5)])  # [asked, records]
    right = looks[torch.arange(5), torch.tensor([3, 0, 4, 1, 2])]
    assert right.mean() > 2 * (looks.sum() - right.sum()) / 20
