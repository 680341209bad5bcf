"""Tiny students with a SigLIP tower, and the sizes that the plan reckons with."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, SiglipVisionConfig

from longrl.config import ModelSettings
from longrl.models import families
from longrl.models.families import StudentError, check_folder
from longrl.models.published import PUBLISHED
from longrl.models.shape import from_config, shape_of
from longrl.models.siglip import TINY_SIDE
from longrl.models.tiny import build_tiny
from longrl.models.vila_model import Vila, VilaConfig
from longrl.mrsp.encode import encode_long
from longrl.video.sample import plan_frames
from tests.unit.test_tiny import TEXTS

FAMILIES = ["vila", "llava_onevision"]


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, tmp_path_factory):
    settings = ModelSettings(family=request.param)
    return settings, build_tiny(tmp_path_factory.mktemp("tiny") / "model", settings, TEXTS, seed=0)


def test_a_tiny_model_is_whole_and_as_large_as_planned(built):
    settings, folder = built
    student = families.load(check_folder(folder))
    shape, medium = shape_of(settings), student.video(plan_frames(64.0, 31, TINY_SIDE, TINY_SIDE))
    tower = sum(p.numel() for module in student.encoders() for p in module.parameters())
    assert shape.tower_parameters == tower
    assert shape.video_tokens(31, TINY_SIDE, TINY_SIDE) == medium.tokens - len(student.closing())
    assert 5e5 < sum(p.numel() for p in student.model.parameters()) < 5e6
    found = [p for name in ("tower", "projector", "language") for m in student.group(name) for p in m.parameters()]
    assert {id(p) for p in found} == {id(p) for p in student.model.parameters()}


def test_equal_seeds_give_equal_weights(built, tmp_path):
    settings, folder = built
    same = build_tiny(tmp_path / "same", settings, TEXTS, seed=0)
    for path in sorted(folder.rglob("*.safetensors")):
        assert path.read_bytes() == (same / path.relative_to(folder)).read_bytes()


def test_chunks_of_a_long_video_join_to_the_whole(built, monkeypatch):
    _, folder = built
    student = families.load(folder)
    frames = np.random.default_rng(0).integers(0, 255, (11, TINY_SIDE, TINY_SIDE, 3), dtype=np.uint8)
    medium = student.video(plan_frames(22.0, 11, TINY_SIDE, TINY_SIDE))
    with torch.no_grad():
        pixels, grid = student.patches(frames)
        (whole,) = student.encode([pixels], [grid])
        monkeypatch.setattr("longrl.mrsp.encode.PATCHES", 4 * 16)
        chunks = encode_long(student, frames, medium)
    assert whole.shape == (medium.tokens, student.width)
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=1e-5)


def test_a_missing_part_of_a_vila_is_named(tmp_path):
    folder = build_tiny(tmp_path / "model", ModelSettings(family="vila"), TEXTS, seed=0)
    (folder / "mm_projector/model.safetensors").unlink()
    with pytest.raises(StudentError, match=r"mm_projector has no \*\.safetensors"):
        check_folder(folder)
    (folder / "llm/tokenizer.json").unlink()
    with pytest.raises(StudentError, match=r"no Hugging Face folder of a VILA: llm/tokenizer\.json missing"):
        check_folder(folder)


def test_published_tokens_are_those_of_the_published_scripts():
    """257 and 122 a frame in NVlabs/Long-RL's; in NVILA's fourth stage 8 frames share 257."""
    video, two, long = (from_config(PUBLISHED[name]) for name in ("NVILA-8B-Video", "NVILA-Lite-2B", "LongVILA-R1-7B"))
    assert long.video_tokens(256, 448, 448) + long.stamps(256) == 256 * 257
    assert two.video_tokens(32, 448, 448) + two.stamps(32) == 32 * 122
    assert video.video_tokens(256, 448, 448) + video.stamps(256) == 32 * 257
    assert video.patches(256, 448, 448)[0] == 256 * 1024


@pytest.mark.parametrize("name", ["NVILA-8B", "NVILA-8B-Video", "NVILA-Lite-2B"])
def test_published_sizes_are_those_of_the_parts(name):
    told = PUBLISHED[name]
    text, vision = Qwen2Config(**told["llm_cfg"]), SiglipVisionConfig(**told["vision_tower_cfg"])
    with torch.device("meta"):
        model = Vila(VilaConfig(text, vision, told["mm_projector_cfg"]["mm_projector_type"], told))
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()}
    shape = from_config(told)
    assert (shape.text_parameters, shape.tower_parameters) == (
        count["llm"],
        count["vision_tower"] + count["mm_projector"],
    )
