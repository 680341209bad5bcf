"""Ranks of test_sequence_parallel: groups of them share rows, and compare what they get with separate sequences."""

import torch
import torch.distributed as dist
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from longrl.config import EngineSettings
from longrl.models import families
from longrl.mrsp.activations import limit_activations
from longrl.mrsp.prefix import pack, response_group, score
from longrl.mrsp.ulysses import Shards, make_shards
from longrl.training.engine import Engine, join
from tests.separate_sequences import exact_norm, gradients, relative, separate, video


class Batch:
    """Ragged groups on two videos and on none; `oracle` is (logprobs, entropies, hits, gradients) of one rank."""

    def __init__(self, student):
        self.student = student
        chat = student.chat
        prompts = [
            chat.prompt("what", [chat.video((8, 4, 4), 1.7)]),
            chat.prompt("what moves to the left", [chat.video((2, 4, 4), 0.5)]),
            chat.prompt("which"),
        ]
        embeds = [video(student, prompt, seed) for seed, prompt in enumerate(prompts)]
        self.videos = [each.requires_grad_() for some in embeds for each in some]
        longest = 12 + (max(len(prompt.expanded) for prompt in prompts) + 1) % 2  # so that no even number divides a row
        lengths = [(3, 0, longest), (7, 5), (0, 9, 2)]
        responses = [[[20 + (7 * i + n) % 200 for i in range(n)] for n in each] for each in lengths]
        parts = list(zip(prompts, embeds, responses, strict=True))
        self.groups = [response_group(*part) for part in parts]
        with torch.no_grad():
            scored = score(student, self.groups, entropy=True)
        rows = [row for part in parts for row in separate(student, *part)]
        self.oracle = [row.detach() for row in rows], flat(scored.entropy), flat(scored.correct), self.slopes(rows)

    def slopes(self, rows):
        """Gradients by parameter and video."""
        for each in self.videos:
            each.grad = None
        found = gradients(self.student, rows)
        return found | {f"video {i}": each.grad for i, each in enumerate(self.videos)}

    def errors(self, shards, **options):
        """How far a group of ranks is from the oracle, relatively; their gradients are added up."""
        scored = score(self.student, self.groups, entropy=True, shards=shards, **options)
        logprobs, entropy, correct, expected = self.oracle
        slopes = self.slopes(flat(scored.logprobs))
        assert slopes.keys() == expected.keys()
        for each in slopes.values():
            dist.all_reduce(each, group=shards.group)
        return {
            "logprobs": apart(flat(scored.logprobs), logprobs),
            "entropy": apart(flat(scored.entropy), entropy),
            "gradients": max(relative(slopes[name], expected[name]) for name in expected),
            "correct": torch.cat(flat(scored.correct)).equal(torch.cat(correct)),
            "left_over": pack(self.student, self.groups).layout.tokens % shards.degree,
        }


def apart(ours, theirs):
    ours, theirs = torch.cat(ours), torch.cat(theirs)
    return ((ours - theirs) / (1 + theirs.abs())).abs().max().item()


def flat(rows):
    return [row for group in rows for row in group]


def main(job, messages):
    join("cpu")
    student = families.load(job["model"])
    student.model.model.visual.requires_grad_(False)
    pairs = make_shards(2, heads=4)
    everyone = Shards(dist.group.WORLD)

    def compare(what, batch, **options):
        for shards in (pairs, everyone):
            messages.send("compared", what=what, degree=shards.degree, **batch.errors(shards, **options))

    compare("float32", Batch(student))
    take_step(student, pairs, messages)

    modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm.forward = exact_norm
    student = families.load(job["model"])
    student.model.model.visual.requires_grad_(False)
    student.model.double()
    batch = Batch(student)
    compare("float64", batch)
    compare("concatenated", batch, kernel="concatenated")
    limit_activations(student, "recompute", tiles=3)
    compare("checkpointed and tiled", batch)


def take_step(student, shards, messages):
    """A step of the engine on two replicas of two ranks: its gradient norm and that of the whole batch's mean."""
    groups = Batch(student).groups
    student.model.zero_grad()
    (-torch.cat(flat(score(student, groups).logprobs)).mean()).backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in student.model.parameters() if p.grad is not None])
    student.model.zero_grad()

    engine = Engine(student.model, EngineSettings(), shards)
    mine = groups[engine.replica :: engine.replicas]
    (tokens,) = engine.total(sum(len(suffix) - 1 for group in mine for suffix in group.suffixes))
    engine.loss(lambda: -torch.cat(flat(score(student, mine, shards=shards).logprobs)).sum() * engine.share(tokens))
    messages.send("stepped", norm=engine.step(0.0), expected=float(expected))
