"""Ranks of test_engine: engines one after another, each a few steps on fixed groups shared out over the ranks."""

import resource
from functools import partial
from pathlib import Path

import torch

from longrl.config import EngineSettings
from longrl.models import families
from longrl.mrsp.prefix import question_group, score
from longrl.training.checkpoint import Checkpoints, export
from longrl.training.engine import Engine, join


def groups(student, step: int):
    """Four groups of random text on random videos; the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(4):
        prompt = student.chat.prompt("what is it", [student.chat.video((2, 4, 4), 1.0)])
        words = [torch.randint(20, 200, (5 + index,), generator=generator).tolist() for index in range(3)]
        pixels = torch.randn(2 * 4 * 4, 1176, generator=generator)
        yield prompt, pixels, words


def batch_loss(student, mine, factor):
    videos = student.encode([pixels for _, pixels, _ in mine], [prompt.media[0].grid for prompt, _, _ in mine])
    built = [
        question_group([prompt] * len(words), [video], words)
        for (prompt, _, words), video in zip(mine, videos, strict=True)
    ]
    logprobs = score(student, built).logprobs
    return -sum(row.sum() for group in logprobs for row in group) * factor


def main(job, messages):
    join("cpu")
    for case in job["cases"]:
        run_case(job | case, messages)


def run_case(job, messages):
    folder = Path(job["folder"])
    student = families.load(job["model"], getattr(torch, job["dtype"]))
    student.model.model.visual.requires_grad_(not job.get("freeze_vision"))
    chosen = {name: job[name] for name in ("zero_stage", "dtype", "offload") if name in job}
    settings = EngineSettings(weight_decay=0.01, **chosen)
    engine = Engine(student.model, settings)
    checkpoints = Checkpoints(folder, engine, messages.warn)

    def go_on(done):
        for step in range(done + 1, job["steps"] + 1):
            values = take_step(engine, student, job, step)
            messages.send("metrics", case=job["name"], rank=engine.rank, **values)
            if step in job.get("save_at", ()):
                with disk_full_at(job.get("full_at"), step):
                    checkpoints.save(step)

    start = Checkpoints(Path(job["source"]), engine).restore() if "source" in job else 0
    go_on(start)
    if job.get("return"):
        messages.send("restored", case=job["name"], step=checkpoints.restore(), failed=checkpoints.failed)
        job["save_at"] = ()
        go_on(checkpoints.restore())
    if job.get("export"):
        export(engine, student, Path(job["model"]), folder)


class disk_full_at:
    """No file of this process may grow beyond 100 kB in this step."""

    def __init__(self, full, step):
        self.full, self.limit = full == step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def __enter__(self):
        if self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, self.limit[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limit)


def take_step(engine, student, job, step):
    everything = list(groups(student, step))
    tokens = sum(len(row) for _, _, words in everything for row in words)
    mine = everything[engine.rank :: engine.ranks]
    halves = [mine[: len(mine) // 2], mine[len(mine) // 2 :]]  # two forwards a step: accumulation
    factor = engine.share(tokens) * (float("nan") if step in job.get("poison", ()) else 1.0)
    factor *= 1e30 if step in job.get("explode", ()) else 1.0  # a finite loss of infinite gradient norm
    local = sum(engine.loss(partial(batch_loss, student, half, factor)) for half in halves)
    norm = engine.step(job["rate"])
    (loss,) = engine.total(local / engine.ranks)
    return {"step": step, "loss": loss, "norm": norm, "skipped": engine.skipped}
