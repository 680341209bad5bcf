"""What each part of MR-SP saves, by the number of frames: the published table, on a small model and two CPU ranks.

    make bench NAME=mrsp
    make bench NAME=mrsp ARGS='--frames 8 --rounds 1'     # a trial: nothing is written

The published table (Scaling RL to Long Videos, Qwen2.5-VL-7B on 8 A100s) gives seconds of a step without MR-SP, with
stage 1 and with both. Here a step is two groups on two ranks: each rank rolls out 8 responses of 32 tokens by its own
vLLM, then forward and backward, then the sum of the gradients. The model is the small one of `benchmarks.prefix`, the
frames are 84x84 (9 tokens for every two), a rank has one thread. In every column both ranks are busy all the time:
- `none`: the video goes through the tower once for the rollouts and once for each row of the update (Long-RL's path for
  Qwen); 8 rows `[prompt | response]`, in micro-batches of 16,384 tokens.
- `cached`: the same rows from cached embeddings.
- `prefix`: cached, and the prompt computed once for its 8 responses.
- `parallel`: the same, but both ranks share each group by sequence parallelism, one group after the other.
Seconds are those of the clock, from barrier to barrier, median of the rounds (one round from 256 frames on), columns in
turns. `mib_*` is the peak resident memory of a rank in that column, libraries and rollout engine included.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import tempfile
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bar, Report, alternate, peak_mib
from benchmarks.prefix import (
    GROUP,
    backward,
    micro_batches,
    question,
    repeated,
    repeated_logprobs,
    shared,
    small_model,
)

if TYPE_CHECKING:
    from longrl.models.base import Student

FRAMES = (8, 16, 32, 64, 128, 256, 512, 1024)
COLUMNS = ("none", "cached", "prefix", "parallel")
RANKS, SIDE, NEW, TEXT = 2, 84, 32, 40  # pixels; tokens of a response and of a question


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="mrsp")
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(options)
    os.environ["OMP_NUM_THREADS"] = "1"
    report = Report(settings=vars(chosen) | {"ranks": RANKS, "group": GROUP, "side": SIDE}, keep=not options)
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder) / "model")
        report.rows = measure(model, list(chosen.frames), chosen.rounds)
    for row in report.rows:
        best = min(row["prefix"], row["parallel"])
        simpler = min(row["none"], row["cached"])
        report.bars.append(Bar(f"mrsp.{row['frames']}.against_simpler", simpler / best, 1.0))
        if row["frames"] == 256:
            report.bars.append(Bar("mrsp.256.against_none", row["none"] / best, 4.0))
    return report


def measure(model: Path, frames: list[int], rounds: int) -> list[dict[str, Any]]:
    """Rows as rank 0 reports them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    ranks = [
        context.Process(target=rank_main, args=(theirs if rank == 0 else None, rank, model, frames, rounds))
        for rank in range(RANKS)
    ]
    for process in ranks:
        process.start()
    theirs.close()
    try:
        return [ours.recv() for _ in frames]
    except EOFError:
        raise RuntimeError("a rank has ended; its words are above") from None
    finally:
        for process in ranks:
            process.terminate()


def rank_main(pipe: Connection | None, rank: int, model: Path, frames: list[int], rounds: int) -> None:
    """One rank: every column on every number of frames."""
    import torch.distributed as dist

    from longrl.training.engine import join

    store = f"file://{model.parent / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    join("cpu")  # DeepSpeed takes the group over
    bench = Rank(model, max(frames))
    bench.look(min(frames))
    for column in COLUMNS:
        bench.step(column)  # no first call is measured
    for number in frames:
        bench.look(number)
        contestants = {column: partial(bench.step, column) for column in COLUMNS}
        seconds = alternate(contestants, rounds if number < 256 else 1)
        row = {"frames": number, "prompt": len(bench.prompt.expanded)}
        row |= {column: round(value, 3) for column, value in seconds.items()}
        row |= {f"mib_{column}": round(peak) for column, peak in bench.peaks.items()}
        if pipe:
            pipe.send(row)


class Rank:
    """A student, a rollout engine, and the video they look at."""

    def __init__(self, model: Path, most: int) -> None:
        from longrl.models import families
        from longrl.mrsp import ulysses
        from longrl.rollout import vllm

        self.student: Student = families.load(model)
        self.student.model.model.visual.requires_grad_(False)
        self.shards = ulysses.make_shards(RANKS, self.student.heads)
        self.peaks: dict[str, float] = {}  # MiB, by column
        longest = most // 2 * (SIDE // 28) ** 2 + TEXT + NEW
        self.sampler = vllm.Engine(model, -(-longest // 128) * 128)

    def look(self, frames: int) -> None:
        """Take a video of noise and encode it for the columns that have embeddings cached."""
        import numpy as np

        noise = np.random.default_rng(0).integers(0, 255, (frames, SIDE, SIDE, 3), dtype=np.uint8)
        self.pixels, self.grid = self.student.patches(noise)
        self.embeds = self.encode(1)
        self.prompt = question(self.student, self.grid, len(self.embeds[0]) + TEXT)

    def encode(self, times: int) -> Any:
        """Embeddings of the video, computed so many times, in one batch."""
        import torch

        with torch.no_grad():
            return (self.student.encode([self.pixels] * times, [self.grid] * times)[0],)

    def step(self, column: str) -> None:
        """One step of a column, all ranks together; notes the peak memory of this one."""
        import torch.distributed as dist

        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier column freed is still held
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        dist.barrier()
        getattr(self, column)()
        for parameter in self.student.model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
        dist.barrier()
        self.peaks[column] = peak_mib()

    def none(self) -> None:
        answers = self.roll_out(self.encode(1))
        self.student.model.zero_grad(set_to_none=True)
        for part in micro_batches(self.prompt, answers):
            backward(repeated_logprobs(self.student, self.prompt, self.encode(len(part)), part))

    def cached(self) -> None:
        repeated(self.student, self.prompt, self.embeds, self.roll_out(self.embeds))

    def prefix(self) -> None:
        shared(self.student, self.prompt, self.embeds, self.roll_out(self.embeds))

    def parallel(self) -> None:
        import torch

        from longrl.mrsp.prefix import response_group, score

        assert self.shards is not None
        own = response_group(self.prompt, self.embeds, self.roll_out(self.embeds))
        self.student.model.zero_grad(set_to_none=True)
        for group in self.shards.pool([own]):
            backward(torch.cat(score(self.student, [group], shards=self.shards).logprobs[0]))

    def roll_out(self, embeds: Any) -> list[list[int]]:
        """Eight responses, brought to one length; the engine's caches are emptied, as new weights would."""
        from longrl.rollout.request import Request

        self.sampler.reset_caches()
        rollouts = self.sampler.generate([Request(self.prompt, embeds, GROUP, 1.0, NEW)])[0]
        filler = [9] * NEW
        return [(rollout.token_ids + filler)[:NEW] for rollout in rollouts]
