"""Every family and modality: cached embeddings and our positions give what the family's own forward gives from pixels.

Ours is one packed forward of a prompt with several responses; theirs is transformers' own forward of each sequence.
"""

import pytest
import torch
from transformers import AutoProcessor

from longrl.models import families
from longrl.models.families import class_of
from longrl.mrsp import prefix
from tests.families import ANY_SIZE, CASES, SHOWN, build, logprobs_of, look, own_logits

WORDS = ["<think>red</think><answer>A</answer>", "the ball moves left and then right", "red"]
VALUES, GRADIENTS = 2e-5, 2e-4  # float32: |difference| of logprobs, relative error of gradients


def published(prompt, extra, spacing_counts):
    """M-RoPE of Qwen2-VL and Qwen2.5-VL as one loop over tokens: after a medium at the largest position plus one."""
    rows, largest = [], -1
    for part in (*prompt.opening, (*prompt.tail, *[0] * extra)):
        if isinstance(part, tuple):
            rows += [(largest + 1 + i,) * 3 for i in range(len(part))]
        else:
            (medium,), start = part.media, largest + 1
            t, h, w = medium.grid
            pace = medium.second_per_grid if spacing_counts and medium.kind == "video" else 1.0
            rows += [
                (start + int(i * pace), start + j, start + k)
                for i in range(t) for j in range(h // 2) for k in range(w // 2)
            ]  # fmt: skip
        largest = max([largest, *(max(row) for row in rows)])
    return torch.tensor(rows).T


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Student, plain transformers model and processor by family, built when first asked for."""
    made = {}

    def of(family):
        if family not in made:
            folder = build(tmp_path_factory.mktemp(family), family)
            plain = class_of(family).MODEL.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
            made[family] = families.load(folder), plain, AutoProcessor.from_pretrained(folder)
        return made[family]

    return of


@pytest.mark.parametrize(("family", "modality"), [case for case in CASES if case[0] in ANY_SIZE])
def test_embeddings_and_positions_give_the_family_s_own_forward(models, family, modality):
    student, plain, processor = models(family)
    media, embeds = look(student, SHOWN[modality])
    prompt = student.chat.prompt("what moves", media)
    responses = [student.chat.response(text) for text in WORDS]
    ours = prefix.group_logprobs(student, prompt, embeds, responses)
    # Only after videos are transformers' own positions of these two not the published ones.
    wrong = family in ("qwen2_vl", "qwen2_5_vl") and "video" in modality
    theirs = []
    for response in responses:
        places = published(prompt, len(response), family == "qwen2_5_vl") if wrong else None
        logits = own_logits(plain, processor, [*prompt.expanded, *response], SHOWN[modality], places)
        theirs.append(logprobs_of(logits, prompt, response))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=VALUES, rtol=0)
    weights = [torch.randn(len(row), generator=torch.Generator().manual_seed(i)) for i, row in enumerate(ours)]
    slopes = []
    for model, rows in ((student.model, ours), (plain, theirs)):
        model.zero_grad()
        sum((row * weight).sum() for row, weight in zip(rows, weights, strict=True)).backward()
        slopes.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None and "visual." not in n})
    assert slopes[0].keys() == slopes[1].keys()
    for name, slope in slopes[1].items():
        assert float((slopes[0][name] - slope).norm() / slope.norm().clamp_min(1e-3)) < GRADIENTS, name


@pytest.mark.parametrize(("family", "modality"), [case for case in CASES if case[0] in ANY_SIZE and case[1] != "text"])
def test_prompts_are_those_of_the_family_s_processor(models, family, modality):
    student, _, processor = models(family)
    shown = SHOWN[modality]
    media, _ = look(student, shown)
    content = [{"type": kind} for kind, _, _ in shown] + [{"type": "text", "text": "what moves"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    given = {}
    for kind in ("image", "video"):
        pictures = [torch.from_numpy(frames.transpose(0, 3, 1, 2)) for each, frames, _ in shown if each == kind]
        if pictures:
            given[f"{kind}s"] = [each[0] for each in pictures] if kind == "image" else pictures
    if "videos" in given:  # two frames a temporal patch, at and half its spacing apart
        given["video_metadata"] = [
            {"total_num_frames": len(frames), "fps": 2 / pace, "frames_indices": list(range(len(frames)))}
            for kind, frames, pace in shown
            if kind == "video"
        ]
    options = {"do_resize": False, "do_sample_frames": False, "return_tensors": "pt"}
    theirs = processor(text=[text], **given, **options)["input_ids"][0].tolist()
    if family == "qwen3_vl":  # 5.19 leaves the template's marks standing around a video's own
        pace = [(spacing / 4, spacing) for kind, _, spacing in shown if kind == "video"]
        media = (
            [
                student.chat.video(one.grid, spacing, [first + i * spacing for i in range(one.grid[0])])
                for one, (first, spacing) in zip([m for m in media if m.kind == "video"], pace, strict=True)
            ]
            if modality == "video"
            else media
        )
        theirs = without_outer_marks(theirs, student.chat)
    assert theirs == student.chat.prompt("what moves", media).expanded or modality == "videos"


def without_outer_marks(ids, chat):
    """Ids without a start that a moment follows, and without an end that another end precedes."""
    start, end = chat.marks
    angle = chat.moment(0.0)[0]
    kept = [b for b, after in zip(ids, [*ids[1:], None], strict=True) if not (b == start and after == angle)]
    return [b for before, b in zip([None, *kept], kept, strict=False) if not (b == end and before == end)]


@pytest.mark.parametrize("family", ANY_SIZE)
def test_a_saved_student_loads_into_plain_transformers(models, family, tmp_path):
    student, _, _ = models(family)
    student.save(tmp_path)
    saved = class_of(family).MODEL.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    state = student.model.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], value) for name, value in state.items())


@pytest.mark.parametrize("family", ANY_SIZE)
def test_groups_are_all_parameters_once(models, family):
    student, _, _ = models(family)
    found = [p for name in ("tower", "projector", "language") for m in student.group(name) for p in m.parameters()]
    tied = {id(p) for p in found}
    assert tied == {id(p) for p in student.model.parameters()}


@pytest.mark.parametrize("family", [name for name, entry in ANY_SIZE.items() if entry.kinds])
def test_frozen_groups_have_no_gradients(tmp_path, models, family):
    student, _, _ = models(family)
    folder = build(tmp_path, family)
    copy = families.load(folder)
    assert copy.trains_encoders
    copy.freeze("tower")
    assert copy.trains_encoders
    copy.freeze("projector")
    assert not copy.trains_encoders
    assert any(p.requires_grad for p in copy.model.parameters())
    assert student.tower_digest() == copy.tower_digest()
