"""The prompt computed once equals the prompt computed for every response, in values and gradients."""

from functools import partial

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from longrl.models import families
from longrl.mrsp import attention, prefix
from longrl.mrsp.activations import limit_activations
from longrl.mrsp.kernels import Blocks
from tests.kept import kept_bytes
from tests.separate_sequences import exact_norm, gradients, relative, separate, video

WORDS = ["<think>red</think><answer>A</answer>", "blue", "the ball moves left and then right", "", "red red red"]
FLOAT, DOUBLE = 1e-5, 1e-9  # relative errors


@pytest.fixture
def student(student_folder):
    student = families.load(student_folder)
    student.model.model.visual.requires_grad_(False)
    return student


@pytest.fixture
def exact(student, monkeypatch):
    """The student in float64 throughout."""
    monkeypatch.setattr(modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm, "forward", exact_norm)
    student.model.double()
    return student


def assert_equal(student, ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, check_dtype=False)
    ours, theirs = gradients(student, ours), gradients(student, theirs)
    assert ours.keys() == theirs.keys()
    worst = max((relative(ours[name], expected), name) for name, expected in theirs.items())
    assert worst[0] < tolerance, worst


@pytest.mark.parametrize("kernel", ["cascade", "concatenated"])
def test_a_group_of_ragged_responses_equals_separate_sequences(student, kernel):
    prompt = student.chat.prompt("what moves", [student.chat.video((8, 4, 4), 1.7)])
    embeds, responses = video(student, prompt), [student.chat.response(text) for text in WORDS]
    ours = prefix.score(student, [prefix.response_group(prompt, embeds, responses)], kernel=kernel).logprobs[0]
    assert_equal(student, ours, separate(student, prompt, embeds, responses), FLOAT)


def test_equality_in_double_precision(exact):
    prompt = exact.chat.prompt("what moves", [exact.chat.video((8, 4, 4), 1.7)])
    embeds, responses = video(exact, prompt), [exact.chat.response(text) for text in WORDS]
    ours = prefix.group_logprobs(exact, prompt, embeds, responses)
    assert_equal(exact, ours, separate(exact, prompt, embeds, responses), DOUBLE)


def test_groups_of_different_prompts_and_sizes_in_one_batch(exact):
    """Prompts of other lengths, with and without a video, and groups of other sizes share one forward."""
    prompts = [
        exact.chat.prompt("what", [exact.chat.video((8, 4, 4), 1.7)]),
        exact.chat.prompt("what moves to the left", [exact.chat.video((2, 4, 4), 0.5)]),
        exact.chat.prompt("which"),
    ]
    embeds = [video(exact, prompts[0], 0), video(exact, prompts[1], 1), ()]
    responses = [[exact.chat.response(text) for text in texts] for texts in (WORDS, WORDS[1:3], WORDS[:1])]
    groups = [prefix.response_group(*parts) for parts in zip(prompts, embeds, responses, strict=True)]
    ours = [row for group in prefix.score(exact, groups, temperature=0.7).logprobs for row in group]
    theirs = [
        row
        for parts in zip(prompts, embeds, responses, strict=True)
        for row in separate(exact, *parts, temperature=0.7)
    ]
    assert_equal(exact, ours, theirs, DOUBLE)


def test_questions_on_one_video_equal_separate_sequences(exact):
    prompts = [
        exact.chat.prompt(text, [exact.chat.video((8, 4, 4), 1.7)])
        for text in ("what moves", "who", "describe the red ball now")
    ]
    responses = [exact.chat.response(text) for text in WORDS[:3]]
    embeds = video(exact, prompts[0])
    (ours,) = prefix.score(exact, [prefix.question_group(prompts, embeds, responses)]).logprobs
    theirs = [separate(exact, p, embeds, [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert_equal(exact, ours, theirs, DOUBLE)


def test_gradients_reach_the_video(exact):
    prompt = exact.chat.prompt("what moves", [exact.chat.video((4, 4, 4), 1.7)])
    responses = [exact.chat.response(text) for text in WORDS[:2]]
    slopes = []
    for scorer in (prefix.group_logprobs, separate):
        embeds = video(exact, prompt)
        embeds[0].requires_grad_()
        sum(row.sum() for row in scorer(exact, prompt, embeds, responses)).backward()
        slopes.append(embeds[0].grad)
    torch.testing.assert_close(*slopes, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("lengths", [(0, 60, 3), (0, 0), (1, 0, 0), (60, 60)])
def test_responses_of_no_and_of_many_tokens(exact, lengths):
    prompt = exact.chat.prompt("what moves", [exact.chat.video((4, 4, 4), 1.7)])
    responses = [[20 + (7 * i) % 200 for i in range(length)] for length in lengths]
    embeds = video(exact, prompt)
    ours = prefix.group_logprobs(exact, prompt, embeds, responses)
    assert [len(row) for row in ours] == list(lengths)
    assert_equal(exact, ours, separate(exact, prompt, embeds, responses), DOUBLE)


@pytest.mark.parametrize(("checkpointing", "tiles"), [("recompute", 1), ("offload", 1), ("none", 3), ("recompute", 3)])
def test_keeping_fewer_activations_changes_nothing(exact, checkpointing, tiles):
    """Nor does a forward of several ragged groups, one without a video."""
    prompts = [exact.chat.prompt("what moves", [exact.chat.video((4, 4, 4), 1.7)]), exact.chat.prompt("which")]
    embeds = [video(exact, prompts[0]), ()]
    responses = [[exact.chat.response(text) for text in texts] for texts in (WORDS[:3], WORDS[1:])]
    parts = list(zip(prompts, embeds, responses, strict=True))
    theirs = [row for part in parts for row in separate(exact, *part)]
    limit_activations(exact, checkpointing, tiles)
    scored = prefix.score(exact, [prefix.response_group(*part) for part in parts])
    assert_equal(exact, [row for group in scored.logprobs for row in group], theirs, DOUBLE)


def test_checkpoints_keep_less(student):
    prompt = student.chat.prompt("what moves", [student.chat.video((8, 4, 4), 1.7)])
    embeds, responses = video(student, prompt), [student.chat.response(text) for text in WORDS]
    kept = []
    for checkpointing in ("none", "recompute"):
        limit_activations(student, checkpointing)
        forward = partial(prefix.group_logprobs, student, prompt, embeds, responses)
        kept.append(kept_bytes(forward, student.model.parameters()))
    assert kept[1] < 0.6 * kept[0], kept


def test_another_kernel_gives_the_same(exact, monkeypatch):
    """The cascade is the same code on every device; here its kernel is the one for any of them."""
    monkeypatch.setattr(attention, "kernel_for", lambda query: Blocks())
    test_groups_of_different_prompts_and_sizes_in_one_batch(exact)


def test_embeddings_of_another_frame_plan_are_refused(student):
    prompt = student.chat.prompt("what", [student.chat.video((4, 4, 4), 1.7)])
    embeds = video(student, student.chat.prompt("what", [student.chat.video((2, 4, 4), 1.7)]))
    for wrong in (embeds, ()):
        with pytest.raises(ValueError, match=r"group 0: .* grid \(4, 4, 4\).* of one frame plan"):
            prefix.group_logprobs(student, prompt, wrong, [[20, 21]])


def test_a_pad_token_in_a_response_is_text(student):
    prompt = student.chat.prompt("what moves", [student.chat.video((2, 4, 4), 1.7)])
    responses = [[student.chat.pads["video"], student.chat.end]]
    ours = prefix.group_logprobs(student, prompt, video(student, prompt), responses)
    theirs = separate(student, prompt, video(student, prompt), responses)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)


def test_chunks_entropy_and_hits_equal_the_full_softmax(student, monkeypatch):
    monkeypatch.setattr(prefix, "CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, student.hidden_size, generator=generator).requires_grad_()
    head = student.model.lm_head.weight
    targets = torch.randint(0, head.shape[0], (20,), generator=generator)
    ours, nats, hits = prefix.token_logprobs(student, hidden, targets, temperature=0.5, entropy=True)
    table = (hidden @ head.T / 0.5).log_softmax(-1)
    theirs = table.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(nats, -(table.exp() * table).sum(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(hits, table.argmax(1) == targets)
    weights = torch.randn(20, generator=generator)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), (hidden, head)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_questions_on_two_videos_are_refused(student):
    prompts = [
        student.chat.prompt("a", [student.chat.video((2, 4, 4), 1.0)]),
        student.chat.prompt("b", [student.chat.video((2, 4, 4), 2.0)]),
    ]
    with pytest.raises(ValueError, match="one video"):
        prefix.question_group(prompts, (), [[1], [2]])
