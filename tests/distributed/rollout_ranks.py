"""Ranks of test_rollout_ranks: engines inside the trainer's gloo group. One function a test."""

import sys
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from longrl.models import families
from longrl.models.base import Student
from longrl.rollout.request import EngineLost
from longrl.rollout.sampler import Sampler
from longrl.rollout.vllm import Engine
from tests.rollouts import agreement, request


def alone(folder: str, rank: int) -> None:
    """Each rank has an engine and calls it as often as it likes."""
    student = families.load(folder)
    engine = Engine(folder, max_model_len=256)
    for step in range(1 + rank):  # ranks call it a different number of times: nothing waits for the other
        requests = [request(student, film=10 * rank + step)]
        rollouts = engine.generate(requests)
        engine.update_weights(student.model.state_dict())
        assert agreement(student, requests, rollouts).largest < 1e-3
    engine.close()


def sharded(folder: str, rank: int) -> None:
    """Both ranks hold half of one engine; each gets the rollouts of its own requests."""
    student = families.load(folder)
    engine = Engine(folder, max_model_len=256, tensor_parallel=2)
    requests = [request(student, film=10 * rank + number) for number in range(1 + rank)]
    for _ in range(2):
        rollouts = engine.generate(requests)
        assert len(rollouts) == len(requests)
        assert agreement(student, requests, rollouts).largest < 1e-3
        disturb(student)
        engine.update_weights(student.model.state_dict())
    engine.close()


def broken(folder: str, rank: int) -> None:
    """The engine of rank 0 runs out of memory once: both start anew, with the trainer's weights, and repeat."""
    student, breaks, made = families.load(folder), [rank == 0, False, rank == 0], []
    disturb(student)

    def make() -> Engine:
        engine = Engine(folder, max_model_len=256)
        if breaks[len(made)]:
            exhaust(engine)
        made.append(engine)
        return engine

    sampler = Sampler(make, lambda: nullcontext(student.model))
    sampler.push()
    requests = [request(student, film=rank)]
    rollouts = sampler.generate(requests)
    assert sampler.restarts == 1
    assert agreement(student, requests, rollouts).largest < 1e-3
    assert sampler.generate(requests) == rollouts

    if rank == 0:
        exhaust(made[-1])
    with pytest.raises(
        EngineLost, match=r"First: rank 0: RuntimeError.* Then: rank 0: .*lower rl\.rollout\.max_num_seqs"
    ):
        sampler.generate(requests)


def exhaust(engine: Engine) -> None:
    """From now on the engine's forward asks for more memory than there is."""
    model = engine._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    model.register_forward_pre_hook(lambda *_: torch.empty(2**60))


def disturb(student: Student) -> None:
    """Other weights, the same on both ranks."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.model.model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


def main(test: str, folder: str, store: str, rank: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    globals()[test](folder, rank)
    total = torch.ones(1)
    dist.all_reduce(total)  # the trainer's group outlives the engine
    assert total.item() == 2
    dist.destroy_process_group()
    print(f"rank {rank} done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
