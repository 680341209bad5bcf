"""What two ranks of `test_family_shards` run: every family's rows shared by both, beside the same rows on one."""

import torch
import torch.distributed as dist

from longrl.models import families
from longrl.mrsp.prefix import pack, response_group, score
from longrl.mrsp.ulysses import Shards
from longrl.training.engine import join
from tests.families import SHOWN, look


def main(job, messages):
    join("cpu")
    shards = Shards(dist.group.WORLD)
    for family, folder in job["models"].items():
        student = families.load(folder)
        for modality, shown in SHOWN.items():
            if {kind for kind, _, _ in shown} <= set(student.KINDS):
                messages.send("compared", family=family, modality=modality, **compare(student, shown, shards))


def compare(student, shown, shards):
    """The largest relative differences between two ranks and one."""
    media, embeds = look(student, shown)
    prompt = student.chat.prompt("what moves", media)
    longest = 9 + len(prompt) % 2  # the row is the prompt less 1 and 3 x (longest + 1): odd
    responses = [[20 + (7 * i + n) % 200 for i in range(n)] for n in (3, 5, longest)]
    groups = [response_group(prompt, embeds, responses)]
    found = []
    for each in (None, shards):
        student.model.zero_grad()
        rows = score(student, groups, shards=each).logprobs[0]
        torch.cat(rows).sum().backward()
        slopes = {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}
        if each:
            for slope in slopes.values():
                dist.all_reduce(slope)
        found.append((torch.cat(rows).detach(), slopes))
    (one, single), (two, shared) = found
    return {
        "logprobs": float((one - two).abs().max()),
        "gradients": max(float((shared[n] - s).norm() / s.norm().clamp_min(1e-3)) for n, s in single.items()),
        "left_over": pack(student, groups).layout.tokens % 2,
    }
