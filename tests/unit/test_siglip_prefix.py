"""VILA and LLaVA-OneVision: the prompt once equals the prompt for every response, values and gradients."""

import pytest
import torch

from longrl.mrsp import prefix
from longrl.mrsp.activations import limit_activations
from tests.separate_sequences import relative, video
from tests.siglip_prompts import BUILDERS, CLASSES, plain_model, prompts, separate

WORDS = ["<think>red</think><answer>A</answer>", "blue", "the ball moves left"]


@pytest.mark.parametrize("family", BUILDERS)
def test_shared_prompts_equal_whole_sequences(family, tmp_path):
    folder = BUILDERS[family](tmp_path)
    student = CLASSES[family].load(folder)
    plain, run = plain_model(family, folder)
    asked = prompts(student)
    embeds = [tuple(each.requires_grad_() for each in video(student, one, i)) for i, one in enumerate(asked)]
    responses = [student.chat.response(text) for text in WORDS]
    groups = [prefix.response_group(one, some, responses) for one, some in zip(asked, embeds, strict=True)]
    ours = [row for group in prefix.score(student, groups).logprobs for row in group]
    sum(row.sum() for row in ours).backward()
    slopes = [each.grad.clone() for some in embeds for each in some]
    for some in embeds:
        for each in some:
            each.grad = None
    theirs = [
        row for one, some in zip(asked, embeds, strict=True) for row in separate(plain, run, one, some, responses)
    ]
    sum(row.sum() for row in theirs).backward()
    torch.testing.assert_close(torch.cat(ours), torch.cat(theirs), atol=1e-4, rtol=0)
    for slope, expected in zip(slopes, (each.grad for some in embeds for each in some), strict=True):
        assert relative(slope, expected) < 1e-4
    limit_activations(student, "recompute", tiles=3)
    student.model.zero_grad()
    lean = [row for group in prefix.score(student, groups).logprobs for row in group]
    sum(row.sum() for row in lean).backward()
    torch.testing.assert_close(torch.cat(lean), torch.cat(ours), atol=1e-5, rtol=0)
    learned, expected = (model.get_input_embeddings().weight.grad for model in (student.model, plain))
    assert relative(learned, expected) < 1e-4  # newlines between frames among them
