"""Ranks of test_omni_ranks: two share rows in which video and sound alternate, beside one rank's own forward."""

import torch
import torch.distributed as dist

from longrl.models import families
from longrl.mrsp.prefix import response_group, score
from longrl.mrsp.ulysses import make_shards
from longrl.training.engine import join
from tests.separate_sequences import gradients, relative, video


def main(job, messages):
    join("cpu")
    student = families.load(job["model"])
    student.freeze("tower", "projector")
    chat, shards = student.chat, make_shards(2, student.heads)
    prompts = [
        chat.prompt("what beeps", [(chat.video((5, 4, 4), 1.6), chat.audio(17))]),
        chat.prompt("which", [chat.audio(9)]),
        chat.prompt("what"),
    ]
    embeds = [video(student, prompt, seed) for seed, prompt in enumerate(prompts)]
    media = [each.requires_grad_() for some in embeds for each in some]
    responses = [[list(range(20, 20 + n)) for n in lengths] for lengths in ((3, 8), (5, 2), (9, 4))]
    groups = [response_group(*part) for part in zip(prompts, embeds, responses, strict=True)]

    def rows_and_slopes(**options):
        for each in media:
            each.grad = None
        rows = [row for group in score(student, groups, **options).logprobs for row in group]
        found = gradients(student, rows)
        return torch.cat(rows).detach(), found | {f"medium {i}": each.grad for i, each in enumerate(media)}

    alone, expected = rows_and_slopes()
    shared, slopes = rows_and_slopes(shards=shards)
    for each in slopes.values():
        dist.all_reduce(each, group=shards.group)
    worst = max(relative(slopes[name], expected[name]) for name in expected)
    messages.send("compared", logprobs=float((shared - alone).abs().max()), gradients=worst, tokens=len(shared))
