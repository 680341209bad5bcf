"""The one prompt format."""

import doctest

import pytest

from longrl.models import chat


@pytest.fixture(scope="module")
def form(loaded_student):
    return loaded_student.chat


def test_examples_in_docstrings():
    assert doctest.testmod(chat).failed == 0


def test_a_prompt_reads_as_qwen_chat(form):
    prompt = form.prompt("What moves?", [form.video((2, 4, 4), 1.5)])
    text = form.tokenizer.decode(prompt.compact)
    assert text == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>What moves?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_expanded_form_has_a_pad_for_each_video_token(form):
    prompt = form.prompt("What moves?", [form.video((3, 4, 6), 1.5)])
    assert prompt.media_tokens == 18
    pad = form.pads["video"]
    assert prompt.expanded.count(pad) == 18
    assert [token for token in prompt.expanded if token != pad] == [t for t in prompt.compact if t != pad]


def test_a_prompt_without_video_has_no_pad(form):
    prompt = form.prompt("What moves?")
    assert prompt.compact == prompt.expanded
    assert form.tokenizer.decode(prompt.compact) == "<|im_start|>user\nWhat moves?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("mark", ["<|video_pad|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|endoftext|>"])
def test_user_text_cannot_write_special_tokens(form, mark):
    number = form.tokenizer.convert_tokens_to_ids(mark)
    plain, marked = (form.prompt(text, [form.video((2, 4, 4))]).expanded for text in ("a b", f"a {mark} b"))
    assert marked.count(number) == plain.count(number)
    assert mark in form.tokenizer.decode(form.encode(f"a {mark} b"))


def test_a_response_ends_its_turn_and_reads_back(form):
    text = chat.answer_text("The red ball moves.", "So it is left.", "B")
    ids = form.response(text)
    assert ids[-1] == form.end
    assert form.decode([*ids, *ids]) == text


def test_special_tokens_in_a_response_stay_visible(form):
    assert form.decode([form.pads["video"], form.end]) == "<|video_pad|>"


def test_options_keep_their_order_and_letter():
    assert chat.question_text("Q", ["red", "blue", "red ball"]).splitlines()[1:] == [
        "- red (A)", "- blue (B)", "- red ball (C)",
    ]  # fmt: skip


def test_a_grid_that_cannot_be_merged_is_refused(form):
    with pytest.raises(ValueError, match=r"grid \(2, 3, 4\)"):
        form.prompt("What moves?", [form.video((2, 3, 4))])
