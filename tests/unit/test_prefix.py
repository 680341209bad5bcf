"""The prompt computed once equals the prompt computed for every response, in values and gradients."""

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from longrl.models import qwen2_5_vl
from longrl.mrsp import prefix

WORDS = ["<think>red</think><answer>A</answer>", "blue", "the ball moves left and then right", "", "red red red"]


@pytest.fixture
def student(student_folder):
    student = qwen2_5_vl.load(student_folder)
    student.model.model.visual.requires_grad_(False)
    return student


@pytest.fixture
def exact(student, monkeypatch):
    """The student in float64, with the RMSNorm that casts to float32 replaced."""

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm, "forward", norm)
    student.model.double()
    return student


def video(student, prompt, seed=0):
    shape = (prompt.video_tokens, student.hidden_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(student.model.dtype)


def separate(student, prompt, embeds, responses, temperature=1.0):
    """Oracle: one whole sequence for each response, Hugging Face's own attention, full logits."""
    out = []
    for response in responses:
        ids = torch.tensor([prompt.expanded + list(response)])
        start = len(prompt.expanded)
        inputs = student.model.get_input_embeddings()(ids)
        if embeds is not None:
            at = torch.arange(len(prompt.head), len(prompt.head) + prompt.video_tokens)
            inputs = inputs.index_copy(1, at, embeds[None])
        positions = qwen2_5_vl.positions(student, prompt, extra=len(response))[:, None]
        student.model.set_attn_implementation({"text_config": "sdpa"})
        logits = student.model(inputs_embeds=inputs, position_ids=positions, use_cache=False).logits
        qwen2_5_vl.prepare(student.model)
        scores = (logits[0, start - 1 : -1] / temperature).log_softmax(-1)
        out.append(scores.gather(1, ids[0, start:, None])[:, 0])
    return out


def gradients(student, rows):
    student.model.zero_grad()
    weights = torch.Generator().manual_seed(3)
    loss = sum((row * torch.randn(len(row), generator=weights, dtype=torch.float64)).sum() for row in rows)
    loss.backward()
    return {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}


def assert_equal(student, ours, theirs, values, slopes):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=values, rtol=0, check_dtype=False)
    ours, theirs = gradients(student, ours), gradients(student, theirs)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        error = (ours[name] - expected).norm() / expected.norm().clamp_min(1e-12)
        assert error < slopes or expected.norm() < 1e-6, f"{name}: relative gradient error {error:.1e}"


@pytest.mark.parametrize("kernel", ["cascade", "concatenated"])
def test_a_group_of_ragged_responses_equals_separate_sequences(student, kernel):
    prompt = student.chat.prompt("what moves", (8, 4, 4), 1.7)
    embeds, responses = video(student, prompt), [student.chat.response(text) for text in WORDS]
    ours = prefix.score(student, [prefix.response_group(prompt, embeds, responses)], kernel=kernel).logprobs[0]
    assert_equal(student, ours, separate(student, prompt, embeds, responses), 3e-5, 1e-4)


def test_equality_in_double_precision(exact):
    prompt = exact.chat.prompt("what moves", (8, 4, 4), 1.7)
    embeds, responses = video(exact, prompt), [exact.chat.response(text) for text in WORDS]
    ours = prefix.group_logprobs(exact, prompt, embeds, responses)
    assert_equal(exact, ours, separate(exact, prompt, embeds, responses), 1e-9, 1e-9)


def test_groups_of_different_prompts_and_sizes_in_one_batch(exact):
    """Prompts of other lengths, with and without a video, and groups of other sizes share one forward."""
    prompts = [
        exact.chat.prompt("what", (8, 4, 4), 1.7),
        exact.chat.prompt("what moves to the left", (2, 4, 4), 0.5),
        exact.chat.prompt("which"),
    ]
    embeds = [video(exact, prompts[0], 0), video(exact, prompts[1], 1), None]
    responses = [[exact.chat.response(text) for text in texts] for texts in (WORDS, WORDS[1:3], WORDS[:1])]
    groups = [prefix.response_group(*parts) for parts in zip(prompts, embeds, responses, strict=True)]
    ours = [row for group in prefix.score(exact, groups, temperature=0.7).logprobs for row in group]
    theirs = [
        row
        for parts in zip(prompts, embeds, responses, strict=True)
        for row in separate(exact, *parts, temperature=0.7)
    ]
    assert_equal(exact, ours, theirs, 1e-9, 1e-9)


def test_questions_on_one_video_equal_separate_sequences(exact):
    prompts = [exact.chat.prompt(text, (8, 4, 4), 1.7) for text in ("what moves", "who", "describe the red ball now")]
    responses = [exact.chat.response(text) for text in WORDS[:3]]
    embeds = video(exact, prompts[0])
    (ours,) = prefix.score(exact, [prefix.question_group(prompts, embeds, responses)]).logprobs
    theirs = [separate(exact, p, embeds, [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert_equal(exact, ours, theirs, 1e-9, 1e-9)


def test_gradients_reach_the_video(exact):
    prompt = exact.chat.prompt("what moves", (4, 4, 4), 1.7)
    responses = [exact.chat.response(text) for text in WORDS[:2]]
    slopes = []
    for scorer in (prefix.group_logprobs, separate):
        embeds = video(exact, prompt).requires_grad_()
        sum(row.sum() for row in scorer(exact, prompt, embeds, responses)).backward()
        slopes.append(embeds.grad)
    torch.testing.assert_close(*slopes, atol=1e-9, rtol=1e-9)


def test_gradient_checkpointing_changes_nothing(student):
    prompt = student.chat.prompt("what moves", (4, 4, 4), 1.7)
    embeds, responses = video(student, prompt), [student.chat.response(text) for text in WORDS[:3]]
    without = gradients(student, prefix.group_logprobs(student, prompt, embeds, responses))
    student.model.gradient_checkpointing_enable({"use_reentrant": False})
    with_it = gradients(student, prefix.group_logprobs(student, prompt, embeds, responses))
    for name, expected in without.items():
        torch.testing.assert_close(with_it[name], expected, atol=1e-6, rtol=1e-5)


def test_a_pad_token_in_a_response_is_text(student):
    prompt = student.chat.prompt("what moves", (2, 4, 4), 1.7)
    responses = [[student.chat.pad, student.chat.end]]
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
    prompts = [student.chat.prompt("a", (2, 4, 4), 1.0), student.chat.prompt("b", (2, 4, 4), 2.0)]
    with pytest.raises(ValueError, match="one video"):
        prefix.question_group(prompts, None, [[1], [2]])
