"""Ranks of test_engine: a few steps on fixed groups, shared out over the ranks; metrics to a file of rank 0."""

import json
import os
import signal
from pathlib import Path

import torch

from longrl.models import qwen2_5_vl
from longrl.mrsp.prefix import question_group, score
from longrl.training.checkpoint import Checkpoints, export
from longrl.training.engine import Engine, EngineSettings, join
from longrl.training.rank import TrainingError


def groups(student, step: int):
    """Four groups of random text on random videos; the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(4):
        prompt = student.chat.prompt("what is it", (2, 4, 4), 1.0)
        words = [torch.randint(20, 200, (5 + index,), generator=generator).tolist() for index in range(3)]
        pixels = torch.randn(2 * 4 * 4, 1176, generator=generator)
        yield prompt, pixels, words


def batch_loss(student, mine, factor):
    videos = qwen2_5_vl.encode(student, [pixels for _, pixels, _ in mine], [prompt.grid for prompt, _, _ in mine])
    built = [question_group([prompt] * len(words), video, words) for (prompt, _, words), video in zip(mine, videos)]
    logprobs = score(student, built).logprobs
    return -sum(row.sum() for group in logprobs for row in group) * factor


def main(job, messages):
    rank, ranks = join("cpu")
    folder = Path(job["folder"])
    student = qwen2_5_vl.load(job["model"], getattr(torch, job["dtype"]))
    settings = EngineSettings(job["zero_stage"], job["dtype"], (0.9, 0.98), 0.01, gradient_clipping=1.0)
    engine = Engine(student.model, settings)
    checkpoints = Checkpoints(folder, engine)
    done = checkpoints.restore()
    if job.get("expect") is not None and done != job["expect"]:
        raise TrainingError(f"resumed from step {done} instead of {job['expect']}")
    for step in range(done + 1, job["steps"] + 1):
        everything = list(groups(student, step))
        tokens = sum(len(row) for _, _, words in everything for row in words)
        mine = everything[rank::ranks]
        halves = [mine[: len(mine) // 2], mine[len(mine) // 2 :]]  # two forwards a step: accumulation
        poison = float("nan") if step in job.get("poison", ()) else 1.0
        local = sum(engine.loss(lambda half=half: batch_loss(student, half, poison * engine.share(tokens))) for half in halves)
        norm = engine.step(job["rate"])
        (loss,) = engine.total(local / ranks)
        messages.send("metrics", rank=rank, step=step, loss=loss, norm=norm, skipped=engine.skipped)
        if step == job.get("save_at"):
            checkpoints.save(step)
        if step == job.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)
    if job.get("export"):
        export(engine, student, Path(job["model"]), folder)
