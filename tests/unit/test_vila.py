"""VILA: every part composed by hand in plain torch, and the published folder layout."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from longrl.models.families import StudentError
from longrl.models.vila import VILA
from longrl.video.sample import plan_frames
from tests.siglip_students import SIDE, build_vila

POOLED = '{"_target_": "llava.model.encoders.TSPVideoEncoder", "pool_sizes": [[4, 1, 1]]}'
KINDS = {
    "2x2": {},
    "3x3": {"projector": "mlp_downsample_3x3_fix"},
    "pooled": {"video_encoder": POOLED},
    "dynamic_s2": {"dynamic_s2": True, "s2_scales": "70,140,210"},
}


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return build_vila(tmp_path_factory.mktemp("vila"), **KINDS[request.param])


@pytest.fixture(scope="module")
def student(folder):
    return VILA.load(folder)


def blocks(x, rate):
    """Rows of `rate` x `rate` neighbouring patches side by side, one by one; what is missing is zero."""
    side, width = x.shape[0], x.shape[2]
    out = []
    for top in range(0, side, rate):
        for left in range(0, side, rate):
            each = [
                x[row, column] if row < side and column < side else torch.zeros(width)
                for row in range(top, top + rate)
                for column in range(left, left + rate)
            ]
            out.append(torch.cat(each))
    return torch.stack(out)


def projected(x, kind, weights):
    """The published sequence: norm, linear, GELU (norm, linear, GELU), linear."""
    places = [1, 2, 4] if "2x2" in kind else [1, 2, 4, 5, 7]
    x = blocks(x, 2 if "2x2" in kind else 3)
    for place in places:
        weight, bias = weights[f"layers.{place}.weight"], weights[f"layers.{place}.bias"]
        if weight.ndim == 1:
            x = torch.nn.functional.layer_norm(x, weight.shape, weight, bias)
        else:
            x = x @ weight.T + bias
            x = x if place == places[-1] else torch.nn.functional.gelu(x)
    return x


def by_hand(folder, frames, video):
    """Embeddings of pictures from the folder's files: a list with one (n², H) for each picture, or pool of pictures."""
    config = json.loads((folder / "config.json").read_text())
    tower = SiglipVisionModel.from_pretrained(folder / "vision_tower", dtype=torch.float32)
    kind = json.loads((folder / "mm_projector/config.json").read_text())["mm_projector_type"]
    weights = load_file(folder / "mm_projector/model.safetensors")
    scales = 3 if config.get("dynamic_s2") else 1
    out = []
    for frame in torch.from_numpy(frames):
        pixels = (frame.float().permute(2, 0, 1) / 255 - 0.5) / 0.5
        seen = tower(pixels[None], output_hidden_states=True).hidden_states[-2][0]
        out.append(projected(torch.cat([seen] * scales, 1).view(5, 5, -1), kind, weights))
    if video and "video_encoder" in config:
        out = [torch.stack(out[i : i + 4]).mean(0) for i in range(0, len(out), 4)]
    return out


def logits_by_hand(folder, student, frames, video, text):
    """A plain Qwen2 on the embeddings of what the published code writes: pictures that end with a newline."""
    llm = Qwen2ForCausalLM.from_pretrained(folder / "llm", dtype=torch.float32)
    words, embed = student.tokenizer, llm.get_input_embeddings()

    def read(part):
        return embed(torch.tensor(words(part, add_special_tokens=False)["input_ids"]))

    parts = [read("<|im_start|>user\n")]
    for picture in by_hand(folder, frames, video):
        parts += [picture, read("\n")]
    parts.append(read(f"{text}<|im_end|>\n<|im_start|>assistant\n"))
    return llm(inputs_embeds=torch.cat(parts)[None]).logits[0]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["video", "image"])
def test_cached_embeddings_give_what_the_parts_give_by_hand(folder, student, kind):
    frames = noise(8 if kind == "video" else 1)
    pixels, grid = student.patches(frames, kind)
    medium = student.video(plan_frames(16.0, 8, SIDE, SIDE)) if kind == "video" else student.image(SIDE, SIDE)
    assert medium.grid == grid
    (embeds,) = student.encode([pixels], [grid])
    prompt = student.chat.prompt("what moves", [medium])
    assert not prompt.misfit([embeds], student.width)
    ids = torch.tensor([prompt.expanded])
    inputs = student.token_embeds(ids, {pad: torch.cat(rows) for pad, rows in prompt.by_pad([embeds]).items()})
    hidden = student.text_hidden(inputs, student.positions(prompt)[:, None])
    theirs = logits_by_hand(folder, student, frames, kind == "video", "what moves")
    torch.testing.assert_close(hidden[0] @ student.head.T, theirs, atol=2e-4, rtol=0)


def test_several_images_and_a_video_stand_in_their_order(student):
    first, second = student.image(SIDE, SIDE), student.video(plan_frames(8.0, 4, SIDE, SIDE))
    prompt = student.chat.prompt("compare", [first, second, first])
    pads = student.chat.pads
    kinds = [{v: k for k, v in pads.items()}[i] for i in prompt.expanded if i in pads.values()]
    expected = ["image"] * first.tokens + ["video"] * second.tokens + ["image"] * first.tokens
    assert kinds == expected
    assert torch.equal(student.positions(prompt)[0], torch.arange(len(prompt)))


def test_patches_equal_the_siglip_processor(student):
    frames = noise(4)
    theirs = student.processor(images=list(frames), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(student.patches(frames)[0], theirs, atol=1e-6, rtol=0)


def test_an_image_of_another_size_is_squeezed_as_published(student):
    picture = np.random.default_rng(0).integers(0, 255, (1, 90, 200, 3), dtype=np.uint8)
    pixels, grid = student.patches(picture, "image")
    squeezed = Image.fromarray(picture[0]).resize((SIDE, SIDE))  # NVlabs/VILA, mm_utils.process_image
    theirs = student.processor(images=squeezed, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, theirs, atol=1e-6, rtol=0)
    assert student.image(90, 200).grid == grid


def test_pictures_of_another_size_are_refused(student):
    with pytest.raises(ValueError, match=f"set frames.height and frames.width to {SIDE}"):
        student.video(plan_frames(8.0, 4, 56, 56))


def test_a_written_folder_has_the_published_layout_and_loads_back(folder, student, tmp_path):
    student.save(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert {"llm_cfg", "vision_tower_cfg", "mm_projector_cfg"} <= set(told)
    assert told["mm_projector_cfg"]["model_type"] == "v2l_projector"
    tower = load_file(tmp_path / "vision_tower/model.safetensors")
    assert all(name.startswith("vision_model.") for name in tower)
    for part in ("llm", "vision_tower", "mm_projector"):
        ours, theirs = (load_file(each / part / "model.safetensors") for each in (tmp_path, folder))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    plain = Qwen2ForCausalLM.from_pretrained(tmp_path / "llm")
    assert torch.equal(plain.lm_head.weight, student.head)


def test_what_is_never_run_is_not_trained(student):
    frozen = {n for n, p in student.model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all("encoder.layers.2." in name or "post_layernorm" in name for name in frozen)


def test_the_digest_follows_what_embeddings_are_made_of(folder, student, tmp_path):
    build_vila(tmp_path, mm_vision_select_layer=-1)
    assert VILA.load(tmp_path).tower_digest() != student.tower_digest()
    with torch.no_grad():
        student.model.llm.model.norm.weight.add_(1)
        before = student.tower_digest()
        student.model.llm.model.norm.weight.sub_(1)
        student.model.mm_projector.layers[1].bias[0] += 1e-6
    assert student.tower_digest() != before
    with torch.no_grad():
        student.model.mm_projector.layers[1].bias[0] -= 1e-6


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"mm_vision_select_feature": "patch"}, "mm_vision_select_feature='patch'; known is 'cls_patch'"),
        ({"s2": True}, "s2=True"),
        ({"video_encoder": '{"_target_": "x.TSPVideoEncoder", "pool_sizes": [[1, 2, 2]]}'}, "known are BasicImage"),
        ({"chat_template": "hermes"}, "names the chat template 'hermes'"),
    ],
)
def test_a_vila_of_another_kind_is_refused(tmp_path, setting, reason):
    build_vila(tmp_path, **setting)
    with pytest.raises(StudentError, match=reason):
        VILA.load(tmp_path)
