"""Ranks of test_siglip_ranks: rows of VILA and LLaVA-OneVision shared by a group, and long videos encoded together."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from longrl.models import families
from longrl.mrsp import encode
from longrl.mrsp.prefix import response_group, score
from longrl.mrsp.ulysses import Shards
from longrl.training.engine import join
from longrl.video.sample import plan_frames
from tests.separate_sequences import relative, video
from tests.siglip_prompts import prompts
from tests.siglip_students import SIDE


def main(job, messages):
    rank, ranks = join("cpu")
    encode.PATCHES = 2 * 25
    for family, folder in job["folders"].items():
        student = families.load(Path(folder))
        asked = prompts(student)
        responses = [student.chat.response(text) for text in ("red", "the ball moves left and then right")]
        groups = [response_group(one, video(student, one, i), responses) for i, one in enumerate(asked)]
        alone, slopes = scored(student, groups, None)
        together, shared = scored(student, groups, Shards(dist.group.WORLD))
        for each in shared.values():
            dist.all_reduce(each)
        films = np.random.default_rng(0).integers(0, 255, (9, SIDE, SIDE, 3), dtype=np.uint8)
        medium = student.video(plan_frames(18.0, 9, SIDE, SIDE))
        with torch.no_grad():
            parted = encode.encode_long(student, films, medium, rank, ranks)
            whole = encode.encode_long(student, films, medium)
        messages.send(
            "compared",
            family=family,
            rank=rank,
            logprobs=float((alone - together).abs().max()),
            gradients=max(relative(shared[name], slopes[name]) for name in slopes),
            embeddings=bool(torch.equal(parted, whole)),
        )


def scored(student, groups, shards):
    """Logprobs in one row, and the gradients of their sum by parameter."""
    student.model.zero_grad()
    row = torch.cat([each for group in score(student, groups, shards=shards).logprobs for each in group])
    row.sum().backward()
    return row.detach(), {n: p.grad.clone() for n, p in student.model.named_parameters() if p.grad is not None}
