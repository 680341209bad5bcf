"""Ranks of test_rl_update: updates from made groups, shared out over the ranks; no rollout engine."""

import torch

from longrl.config import EngineSettings, RlSettings
from longrl.models import families
from longrl.mrsp.ulysses import make_shards
from longrl.rollout.request import Request, Rollout
from longrl.training import rl_metrics
from longrl.training.algorithms import algorithm
from longrl.training.engine import Engine, join
from longrl.training.rl_rollout import Batch, Sample
from longrl.training.rl_update import Updater
from longrl.training.stopwatch import Stopwatch
from tests.scripted_rollouts import collector

REWARDS = [[1.0, 0.1, 0.0], [0.1, None, 0.9], [0.9, 0.9, 0.9], [0.0, 1.0, 1.0], [1.0, 0.1, 0.1]]
SCRIPTS = ["RWR", "RRR", "RWW", "WRC", "WWW", "RRW", "WWR"]


def made_groups(student) -> list[Sample]:
    """Five groups of three ragged responses, the same on every rank."""
    random = torch.Generator().manual_seed(3)
    samples = []
    for number, totals in enumerate(REWARDS):
        prompt = student.chat.prompt("what is it" + " now" * number, [student.chat.video((2, 4, 4), 1.0)])
        embeds = torch.randn(8, student.hidden_size, generator=random)
        lengths = torch.randint(1, 7, (3,), generator=random).tolist()
        rollouts = [
            Rollout(torch.randint(20, 200, (n,), generator=random).tolist(), [-5.0] * n, "", "stop") for n in lengths
        ]
        request = Request(prompt, (embeds,), n=3)
        samples.append(Sample(f"q{number}", "plan", request, rollouts, [], totals))
    return samples


def batch_for(samples, chosen, rank=0, ranks=1) -> Batch:
    """This rank's part, with the advantages of the whole."""
    rewards = torch.tensor([[0.0 if total is None else total for total in totals] for totals in REWARDS])
    kept = torch.tensor([[total is not None for total in totals] for totals in REWARDS])
    in_loss = [number for number in range(len(samples)) if not (chosen.drops_equal and len(set(REWARDS[number])) == 1)]
    advantages = chosen.advantages(rewards[in_loss], kept[in_loss])
    for row, number in enumerate(in_loss):
        samples[number].advantages = advantages[row][kept[number]]
        samples[number].logprobs = []
    mine = in_loss[rank::ranks]
    return Batch(samples[rank::ranks], [samples[number] for number in mine], teaching=1, unlike=4, equal=1)


def main(job, messages):
    rank, ranks = join("cpu")
    student = families.load(job["model"])
    reference = families.load(job["reference"])
    shards = make_shards(job["degree"], student.model.config.text_config.num_attention_heads)
    engine = Engine(student.model, EngineSettings(zero_stage=job["zero_stage"]), shards)
    samples = made_groups(student)
    for case in job["cases"]:
        case = dict(case)
        rate = case.pop("rate", 0.0)
        settings = RlSettings(**case)
        chosen, clock = algorithm(settings), Stopwatch()
        updater = Updater(engine, student, reference if settings.kl else None, chosen, settings, clock)
        batch = batch_for(samples, chosen, rank, ranks)
        sums = updater.update(batch, rate)
        row = rl_metrics.row(batch, sums, clock.taken(), {"hits": 0, "encoded": 0})
        messages.send("updated", rank=rank, norms=sums.norms, **{name: row[name] for name in job["metrics"]})
    for name in job["collect"]:
        collect, _ = collector(SCRIPTS, prompts_per_step=5, refills=1, algorithm=name)
        batch = collect.collect(1)
        advantages = {sample.question_id: sample.advantages.tolist() for sample in batch.chosen}
        messages.send("collected", rank=rank, name=name, advantages=advantages, prompts=batch.prompts)
