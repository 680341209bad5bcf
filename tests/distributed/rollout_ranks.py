"""Ranks of test_rollout_ranks: an engine each, inside the trainer's gloo group."""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from longrl.models import qwen2_5_vl
from longrl.rollout import parity
from longrl.rollout.vllm import Engine, Request


def main(folder: str, store: str, rank: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    student = qwen2_5_vl.load(folder)
    engine = Engine(folder, max_model_len=256)
    prompt = student.chat.prompt("what moves", (4, 4, 4), 1.5)
    for step in range(1 + rank):  # ranks call it a different number of times: nothing waits for the other
        embeds = torch.randn(16, student.hidden_size, generator=torch.Generator().manual_seed(10 * rank + step))
        requests = [Request(prompt, embeds, n=4, max_tokens=16, seed=rank)]
        rollouts = engine.generate(requests)
        engine.update_weights(student.model.state_dict())
        parity.check(student, ["q"], ["plan"], requests, rollouts, 1e-3)
    total = torch.ones(1)
    dist.all_reduce(total)
    engine.close()
    dist.all_reduce(total)  # the trainer's group outlives the engine
    assert total.item() == 4
    dist.destroy_process_group()
    print(f"rank {rank} done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
