"""LLaVA-OneVision beside transformers' own forward from pixels."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from longrl.models.llava_onevision import LlavaOnevision
from longrl.mrsp import encode
from longrl.video.sample import plan_frames
from tests.siglip_students import SIDE, build_llava


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def student(folder):
    return LlavaOnevision.load(folder)


def inputs_of(folder, text, **media):
    """What the family's own processor makes of a chat."""
    processor = AutoProcessor.from_pretrained(folder)
    kinds = ["image"] * len(media.get("images", [])) + ["video"] * len(media.get("videos", []))
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]
    words = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=words + "\n", return_tensors="pt", **media)


@torch.no_grad()
def logits(student, prompt, embeds):
    ids = torch.tensor([prompt.expanded])
    media = {pad: torch.cat(rows) for pad, rows in prompt.by_pad(embeds).items()}
    hidden = student.text_hidden(student.token_embeds(ids, media), student.positions(prompt)[:, None])
    return hidden[0] @ student.head.T


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 6])
def test_a_video_gives_what_transformers_gives(folder, student, frames):
    pictures = noise(frames, SIDE, SIDE)
    theirs = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    given = inputs_of(folder, "what moves", videos=[torch.from_numpy(pictures).permute(0, 3, 1, 2)])
    medium = student.video(plan_frames(12.0, frames, SIDE, SIDE))
    pixels, grid = student.patches(pictures)
    assert grid == medium.grid
    (embeds,) = student.encode([pixels], [grid])
    prompt = student.chat.prompt("what moves", [medium])
    assert given["input_ids"][0].tolist() == prompt.expanded
    torch.testing.assert_close(logits(student, prompt, [embeds]), theirs(**given).logits[0], atol=2e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[(90, 200)], [(70, 70), (200, 90)]], ids=["one image", "two images"])
def test_images_in_tiles_give_what_transformers_gives(folder, student, sizes):
    images = [noise(1, *size) for size in sizes]
    theirs = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    given = inputs_of(folder, "compare", images=[torch.from_numpy(image[0]).permute(2, 0, 1) for image in images])
    media, embeds = [], []
    for image, size in zip(images, sizes, strict=True):
        pixels, grid = student.patches(image, "image")
        embeds += student.encode([pixels], [grid])
        media.append(student.image(*size))
    prompt = student.chat.prompt("compare", media)
    assert not prompt.misfit(embeds, student.width)
    assert given["input_ids"][0].tolist() == prompt.expanded
    torch.testing.assert_close(logits(student, prompt, embeds), theirs(**given).logits[0], atol=2e-4, rtol=0)


def test_a_long_video_in_chunks_ends_with_one_newline(student, monkeypatch):
    pictures = noise(7, SIDE, SIDE)
    medium = student.video(plan_frames(14.0, 7, SIDE, SIDE))
    with torch.no_grad():
        pixels, grid = student.patches(pictures)
        (whole,) = student.encode([pixels], [grid])
        monkeypatch.setattr(encode, "PATCHES", 2 * 25)
        chunks = encode.encode_long(student, pictures, medium)
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=1e-5)


def test_text_alone_keeps_the_line_break_of_the_chat_format(student):
    assert student.tokenizer.decode(student.chat.prompt("hello").expanded) == (
        "<|im_start|>user \nhello<|im_end|><|im_start|>assistant\n"
    )


def test_the_newline_is_frozen_with_the_projector_and_part_of_the_digest(folder):
    student = LlavaOnevision.load(folder)
    before = student.tower_digest()
    student.freeze("tower", "projector")
    assert not student.trains_encoders
    assert not student.model.model.image_newline.requires_grad
    with torch.no_grad():
        student.model.model.image_newline[0] += 1e-6
    assert student.tower_digest() != before
