"""Flow-GRPO on real ranks: two do what one does, whatever ZeRO shards, and a killed run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longrl.diffusion.families import family_of
from longrl.diffusion.policy import trained
from longrl.warehouse.artifacts import Warehouse
from tests.generation import rows_of, start

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    return start(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def two(beginning):
    """Two ranks, ZeRO-2, the rollouts on disk."""
    return beginning.rl(ranks=2, zero_stage=2, host_gib=0.0)


def adapter(ref):
    return load_file(Path(ref.path) / "lora" / "pytorch_lora_weights.safetensors")


def again(beginning, folder, **changes):
    """The same run in a warehouse of its own: ranks and ZeRO are no part of the key."""
    return type(beginning)(Warehouse(folder), *list(vars(beginning).values())[1:]).rl(**changes)


def test_two_ranks_learn_and_tell(two):
    rows = rows_of(two.file("metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["logprob_gap"] < 1e-4  # what was sampled is what is scored
        assert row["gradient_norm"] > 0
        assert row["disk_bytes"] > 0 == row["host_bytes"]
        assert row["not_finite_groups"] == row["skipped"] == 0
        assert 0 < row["diversity"] < 1
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9)  # the adapter begins as nothing
    assert rows[2]["kl"] > 0
    assert not list(Path(two.path).glob(".rollouts/*/*"))


def test_the_adapter_loads_into_diffusers_and_changes_what_is_drawn(beginning, two):
    pipeline = beginning.generator.file("pipeline")
    family = family_of(pipeline)
    before = trained(family, pipeline, None, torch.float32, "cpu")
    after = trained(family, pipeline, Path(two.path), torch.float32, "cpu")
    words = {"prompt_embeds": torch.randn(1, 32, 32), "pooled": torch.randn(1, 32)}
    latents, t = torch.randn(1, 3, 8, 8), torch.tensor([0.5])
    gap = family.velocity(after, latents, t, words) - family.velocity(before, latents, t, words)
    assert gap.abs().max() > 1e-5


def test_one_rank_takes_the_steps_of_two(beginning, two, tmp_path):
    one = again(beginning, tmp_path, ranks=1)
    mine, theirs = rows_of(one.file("metrics.jsonl")), rows_of(two.file("metrics.jsonl"))
    for name in ("reward", "diversity", "loss", "kl", "gradient_norm"):
        assert [row[name] for row in mine] == pytest.approx([row[name] for row in theirs], rel=2e-3, abs=1e-6), name
    assert all(row["host_bytes"] > 0 == row["disk_bytes"] for row in mine)
    weights, others = adapter(one), adapter(two)
    worst = max((weights[name] - others[name]).abs().max().item() for name in weights)
    assert worst < 3e-4  # of steps of 1e-3: Adam's first steps are signs of gradients


@pytest.mark.parametrize("train", ["lora", "full"])
def test_zero_3_takes_the_same_steps(beginning, two, tmp_path, train):
    spread = again(beginning, tmp_path / "3", ranks=2, zero_stage=3, train=train)
    plain = two if train == "lora" else again(beginning, tmp_path / "0", ranks=2, train=train)
    mine, theirs = rows_of(spread.file("metrics.jsonl")), rows_of(plain.file("metrics.jsonl"))
    for name in ("reward", "loss", "kl", "gradient_norm"):
        assert [row[name] for row in mine] == pytest.approx([row[name] for row in theirs], rel=5e-3, abs=1e-6), name
    if train == "full":
        assert (Path(spread.path) / "transformer" / "diffusion_pytorch_model.safetensors").exists()


def test_a_killed_run_goes_on_as_if_it_had_not_been(beginning, two, tmp_path):
    """The stage's own process is killed after the first checkpoint; started again it ends as the run of one go."""
    code = (
        "from tests.distributed.test_generator_rl import *\n"
        "from tests.generation import Start\n"
        "from longrl.warehouse.artifacts import ArtifactRef\n"
        f"refs = [ArtifactRef(**one) for one in {[vars(ref) for ref in list(vars(beginning).values())[2:]]!r}]\n"
        f"Start(Warehouse({str(tmp_path)!r}), 'sd3', *refs).rl(ranks=2, zero_stage=2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("flowgrpo/.draft-*/.checkpoints/step-*/state.json")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    resumed = again(beginning, tmp_path, ranks=2, zero_stage=2)
    assert resumed.facts()["resumed_from"] >= 1
    assert [row["step"] for row in rows_of(resumed.file("metrics.jsonl"))] == [1, 2, 3]
    weights, others = adapter(resumed), adapter(two)
    assert max((weights[name] - others[name]).abs().max().item() for name in weights) < 1e-6
