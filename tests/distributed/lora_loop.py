"""Ranks of test_lora_ranks: engines with adapters, one after another, and RL's updates against both references."""

from functools import cache, partial
from pathlib import Path

import torch

from longrl.config import EngineSettings, LoraSettings, RlSettings
from longrl.models import families
from longrl.models.lora import add_lora
from longrl.mrsp.prefix import Group, response_group, score
from longrl.mrsp.ulysses import make_shards
from longrl.rollout.request import Request, Rollout
from longrl.training.algorithms import algorithm
from longrl.training.checkpoint import Checkpoints, export
from longrl.training.engine import Engine, join
from longrl.training.rl_rollout import Batch, Sample
from longrl.training.rl_update import Updater
from longrl.training.stopwatch import Stopwatch
from tests.adapters import LORA, with_adapter
from tests.separate_sequences import video

GROUPS, STEPS, RATE = 4, 3, 1e-2


def groups(student, step: int) -> list[Group]:
    """Four prompts on a video with three ragged random responses each, the same on every rank."""
    random = torch.Generator().manual_seed(step)
    made = []
    for number in range(GROUPS):
        prompt = student.chat.prompt("what is it" + " now" * number, [student.chat.video((2, 4, 4), 1.0)])
        lengths = torch.randint(2, 7, (3,), generator=random).tolist()
        words = [torch.randint(20, 200, (n,), generator=random).tolist() for n in lengths]
        made.append(response_group(prompt, video(student, prompt, 10 * step + number), words))
    return made


def tokens(made: list[Group]) -> int:
    return sum(len(suffix) - 1 for group in made for suffix in group.suffixes)


def batch_loss(student, mine, factor, shards=None):
    return -sum(row.sum() for group in score(student, mine, shards=shards).logprobs for row in group) * factor


def main(job, messages):
    join("cpu")
    for case in job["cases"]:
        (update if case.get("update") else train)(job | case, messages)


@cache
def shards_of(degree: int, heads: int):
    """DeepSpeed makes these groups once a process."""
    return make_shards(degree, heads)


def engine_for(job, student) -> Engine:
    shards = shards_of(job.get("degree", 1), student.heads)
    chosen = {name: job[name] for name in ("zero_stage", "dtype", "offload") if name in job}
    return Engine(student.model, EngineSettings(weight_decay=0.01, **chosen), shards)


def train(job, messages):
    """Three steps with a checkpoint after the first, back to it, and the other two again."""
    student = families.load(job["model"], job.get("dtype", "float32"))
    torch.manual_seed(0)
    student.freeze("tower", "projector")
    add_lora(student, LoraSettings.model_validate(LORA.model_dump() | job.get("lora", {})))
    engine = engine_for(job, student)
    checkpoints = Checkpoints(Path(job["folder"]), engine, messages.warn)
    done = Checkpoints(Path(job["source"]), engine).restore() if "source" in job else 0
    for start in (done,) if "source" in job else (0, 1):
        if start and "source" not in job:
            checkpoints.restore()
        for step in range(start + 1, STEPS + 1):
            everything = groups(student, step)
            mine = everything[engine.replica :: engine.replicas]
            factor = engine.share(tokens(everything) * engine.ranks / engine.replicas)
            local = engine.loss(partial(batch_loss, student, mine, factor, engine.shards))
            norm = engine.step(RATE)
            (loss,) = engine.total(local * engine.replicas / engine.ranks**2)  # a group's ranks count the same tokens
            messages.send("step", case=job["name"], rank=engine.rank, step=step, loss=loss, norm=norm)
            if step == 1 and not start:
                checkpoints.save(step)
    if job.get("export"):
        export(engine, student, Path(job["model"]), Path(job["folder"]), LORA)


def update(job, messages):
    """One batch's gradient with the KL to the adapter switched off, and to a frozen copy."""
    student = with_adapter(families.load(job["model"]))
    engine = engine_for(job, student)
    settings = RlSettings(algorithm="grpo", kl=0.1, group_size=3)
    for reference in (student, families.load(job["model"])):
        samples = []
        for number, made in enumerate(groups(student, 1)):
            rollouts = [Rollout(suffix[1:], [-5.0] * (len(suffix) - 1), "", "stop") for suffix in made.suffixes]
            sample = Sample(f"q{number}", "plan", Request(made.prompt, made.embeds, n=3), rollouts, [], [1.0, 0.0, 0.1])
            sample.advantages = torch.tensor([1.0, -0.6, -0.4]) * (1 + number)
            samples.append(sample)
        mine = samples[engine.rank :: engine.ranks]
        chosen = algorithm(settings)
        sums = Updater(engine, student, reference, chosen, settings, Stopwatch()).update(
            Batch(mine, mine, teaching=GROUPS, unlike=GROUPS), 0.0
        )
        loss, kl, scored = engine.total(sums.loss, sums.kl, sums.kl_tokens)
        found = {"loss": loss, "kl": kl / scored, "norm": sums.norms[0]}
        messages.send("update", case=job["name"], rank=engine.rank, **found)
