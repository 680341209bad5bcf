"""The DeepSpeed engine on real ranks, against plain torch on the whole batch."""

from pathlib import Path

import pytest
import torch

from longrl.models import qwen2_5_vl
from longrl.training.launch import launch
from longrl.training.rank import TrainingError
from tests.distributed.engine_loop import batch_loss, groups
from tests.tiny_student import build_student

STEPS, RATE = 3, 1e-2


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build_student(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model):
    """Losses, norms and final weights of plain torch on one process."""
    student = qwen2_5_vl.load(model)
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    curve = []
    for step in range(1, STEPS + 1):
        batch = list(groups(student, step))
        loss = batch_loss(student, batch, 1.0 / sum(len(row) for _, _, words in batch for row in words))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        curve.append((loss.item(), norm.item()))
    return curve, student.model.state_dict()


def run(model, folder, ranks=2, **job):
    curves: dict[int, list[dict]] = {}

    def listen(message):
        if message["kind"] == "metrics":
            curves.setdefault(message["rank"], []).append(message)

    job = {"model": str(model), "folder": str(folder), "dtype": "float32", "zero_stage": 0, "steps": STEPS, "rate": RATE} | job
    try:
        launch("tests.distributed.engine_loop", job, ranks, folder, listen)
    finally:
        run.curve = curves.get(0, [])
    return curves[0]


@pytest.mark.parametrize(("zero_stage", "ranks"), [(0, 1), (0, 2), (1, 2), (2, 2), (3, 2)])
def test_every_stage_takes_the_steps_of_plain_torch(model, reference, tmp_path, zero_stage, ranks):
    curve = run(model, tmp_path, ranks, zero_stage=zero_stage, export=True)
    expected, weights = reference
    assert [row["loss"] for row in curve] == pytest.approx([loss for loss, _ in expected], abs=2e-4)
    assert [row["norm"] for row in curve] == pytest.approx([norm for _, norm in expected], rel=1e-3)
    exported = qwen2_5_vl.load(tmp_path / "hf").model.state_dict()
    assert exported.keys() == weights.keys()
    worst = max((exported[name] - weights[name]).abs().max().item() for name in weights)
    assert worst < 2 * RATE * 0.2, worst  # Adam's first steps are signs of gradients: tiny ones may round either way


def test_killed_run_goes_on_with_the_same_curve(model, tmp_path):
    whole = run(model, tmp_path / "whole", steps=4)
    with pytest.raises(TrainingError, match="SIGKILL"):
        run(model, tmp_path / "killed", steps=4, save_at=2, die_at=3)
    resumed = run(model, tmp_path / "killed", steps=4, expect=2)
    assert [row["step"] for row in resumed] == [3, 4]
    assert [(row["loss"], row["norm"]) for row in resumed] == [(row["loss"], row["norm"]) for row in whole[2:]]


def test_poisoned_step_changes_nothing_and_is_counted(model, tmp_path):
    curve = run(model, tmp_path, steps=3, poison=[2])
    assert [row["norm"] is None for row in curve] == [False, True, False]
    assert curve[-1]["skipped"] == 1


def test_five_poisoned_steps_end_the_training(model, tmp_path):
    with pytest.raises(TrainingError, match="5 steps in a row had a loss"):
        run(model, tmp_path, steps=9, poison=list(range(2, 9)))
    assert len(run.curve) == 5


def test_bfloat16_learns_too(model, tmp_path):
    curve = run(model, tmp_path, dtype="bfloat16", zero_stage=1, steps=3)
    assert all(row["norm"] > 0 for row in curve)
