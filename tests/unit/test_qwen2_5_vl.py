"""The student: patches, tower, positions."""

import json

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from longrl.models import families
from longrl.models.families import StudentError


def noise(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(2, 56, 56), (5, 28, 84), (8, 112, 56)])
def test_patches_equal_the_hugging_face_processor(loaded_student, shape):
    frames = noise(*shape)
    ours, grid = loaded_student.patches(frames)
    theirs = loaded_student.processor.video_processor(
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
    )
    assert grid == tuple(theirs["video_grid_thw"][0].tolist())
    torch.testing.assert_close(ours, theirs["pixel_values_videos"], atol=1e-6, rtol=0)


def test_patches_refuse_frames_of_another_size(loaded_student):
    with pytest.raises(ValueError, match="60x56"):
        loaded_student.patches(noise(2, 60, 56))


def test_one_call_of_the_tower_equals_one_call_a_video(loaded_student):
    videos = [loaded_student.patches(noise(*s)) for s in [(4, 56, 56), (8, 56, 56), (2, 28, 84)]]
    with torch.no_grad():
        together = loaded_student.encode(*zip(*videos, strict=True))
        alone = [loaded_student.encode([pixels], [grid])[0] for pixels, grid in videos]
    for a, b, (_, (t, h, w)) in zip(together, alone, videos, strict=True):
        assert a.shape == (t * h * w // 4, loaded_student.hidden_size)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 56, 56), (4, 84, 140)], ids=["equal windows", "unequal windows"])
def test_batched_windows_equal_hugging_face(loaded_student, student_folder, shape):
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(student_folder, dtype=torch.float32)
    pixels, grid = loaded_student.patches(noise(*shape))
    grids = torch.tensor([grid])
    with torch.no_grad():
        ours = loaded_student.model.model.visual(pixels, grid_thw=grids).pooler_output
        theirs = plain.model.visual(pixels, grid_thw=grids).pooler_output
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def plain_positions(before, grid, after, second_per_grid, per_second, merge=2):
    """M-RoPE written as one loop over tokens, from the published description."""
    out, largest = [], -1
    for i in range(before):
        out.append((i, i, i))
        largest = i
    if grid:
        start = largest + 1
        for t in range(grid[0]):
            for h in range(grid[1] // merge):
                for w in range(grid[2] // merge):
                    out.append((start + int(t * second_per_grid * per_second), start + h, start + w))
        largest = max(max(p) for p in out)
    for i in range(after):
        out.append((largest + 1 + i,) * 3)
    return torch.tensor(out).T


@pytest.mark.parametrize("grid", [(1, 4, 4), (16, 4, 4), (3, 2, 40), None])
@pytest.mark.parametrize("spacing", [0.3, 1.0, 7.9])
def test_positions_equal_a_plain_loop(loaded_student, grid, spacing):
    chat = loaded_student.chat
    prompt = chat.prompt("what moves", [chat.video(grid, spacing)] if grid else [])
    expected = plain_positions(len(prompt.head), grid, len(prompt.tail) + 5, spacing, 2)
    assert torch.equal(loaded_student.positions(prompt, extra=5), expected)


def test_text_after_a_long_video_goes_on_after_its_last_frame(loaded_student):
    prompt = loaded_student.chat.prompt("x", [loaded_student.chat.video((100, 2, 2), 4.0)])
    positions = loaded_student.positions(prompt)
    assert positions[0, len(prompt.context)] == len(prompt.head) + 99 * 8 + 1


def test_embeddings_of_another_grid_are_refused(loaded_student):
    chat = loaded_student.chat
    prompt, pad = chat.prompt("x", [chat.video((4, 4, 4))]), chat.pads["video"]
    with pytest.raises(ValueError, match="another grid"):
        loaded_student.token_embeds(torch.tensor([prompt.expanded]), {pad: torch.zeros(8, 128)})


def test_the_towers_digest_follows_its_weights_alone(student_folder):
    student = families.load(student_folder)
    before = student.tower_digest()
    with torch.no_grad():
        student.model.model.language_model.norm.weight.add_(1)
    assert student.tower_digest() == before
    with torch.no_grad():
        student.model.model.visual.merger.mlp[0].bias[0] += 1e-6
    assert student.tower_digest() != before


def test_loading_names_what_is_wrong(tmp_path):
    with pytest.raises(StudentError, match=r"config\.json is missing"):
        families.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(StudentError, match=r"'llama' model; longrl trains qwen2_5_vl"):
        families.load(tmp_path)
