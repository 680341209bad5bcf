"""The DeepSpeed engine on real ranks, against plain torch on the whole batch.

Starting ranks takes longer than the steps, so one job of two ranks runs all engines, and one of one rank goes on from
their checkpoints; the tests look at what came of it.
"""

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from longrl.models import families
from longrl.training.launch import launch
from longrl.training.rank import TrainingError
from tests.distributed.engine_loop import batch_loss, groups
from tests.tiny_student import build_student

STEPS, RATE = 3, 1e-2
WHOLE = {"steps": STEPS, "save_at": [1], "return": True}
CASES = {
    "zero 0": {"zero_stage": 0, "export": True},
    "zero 1": {"zero_stage": 1},
    "zero 2": {"zero_stage": 2, "export": True},
    "zero 3": {"zero_stage": 3, "export": True},
    "zero 2, optimizer offloaded": {"zero_stage": 2, "offload": "optimizer"},
    "zero 3, all offloaded": {"zero_stage": 3, "offload": "all"},
}
LOW = {f"bfloat16 {stage}": {"zero_stage": stage, "dtype": "bfloat16"} for stage in range(4)}
FROZEN = {"frozen tower": {"zero_stage": 3, "freeze_vision": True}}
EXPLODING = {
    f"exploding, zero {stage} {dtype}": {"zero_stage": stage, "dtype": dtype, "explode": [2]}
    for stage, dtype in [(0, "float32"), (2, "float32"), (0, "bfloat16"), (1, "bfloat16")]
}
FULL = {"disk full": {"zero_stage": 0, "save_at": [1, 2], "full_at": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build_student(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model):
    """Losses, norms and final weights of plain torch on one process."""
    student = families.load(model)
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


class Outcome:
    """What a job said: by case, rank 0's steps and what was restored; all warnings; and each case's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.curves: dict[str, list[dict]] = defaultdict(list)
        self.restored: dict[str, dict] = {}
        self.warnings: list[str] = []

    def listen(self, message):
        match message.pop("kind"):
            case "metrics" if message.pop("rank") == 0:
                self.curves[message.pop("case")].append(message)
            case "restored":
                self.restored[message.pop("case")] = message
            case "warning":
                self.warnings.append(message["message"])

    def run(self, model, ranks, cases):
        defaults = {"model": str(model), "dtype": "float32", "zero_stage": 0, "steps": STEPS, "rate": RATE}
        listed = [{"name": name, "folder": str(self.folder / name)} | case for name, case in cases.items()]
        launch("tests.distributed.engine_loop", defaults | {"cases": listed}, ranks, self.folder, self.listen)
        return self


@pytest.fixture(scope="module")
def two(model, tmp_path_factory):
    """All cases on two ranks: three steps, back to the checkpoint of the first, and the other two again."""
    cases = {name: WHOLE | case for name, case in (CASES | LOW | FROZEN | FULL).items()}
    cases |= EXPLODING
    return Outcome(tmp_path_factory.mktemp("two")).run(model, 2, cases)


@pytest.fixture(scope="module")
def one(model, two, tmp_path_factory):
    """One rank that goes on from the checkpoints of two, partly under another stage."""
    fresh = {"alone": WHOLE | {"zero_stage": 0}}
    stages = {"zero 0": 3, "zero 1": 1, "zero 2": 2, "zero 3": 3, "zero 3, all offloaded": 0}
    dtypes = {name: {"zero_stage": stage} for name, stage in stages.items()}
    dtypes |= {"bfloat16 0": LOW["bfloat16 2"], "bfloat16 3": LOW["bfloat16 0"]}
    later = {name: {"source": str(two.folder / name)} | case for name, case in dtypes.items()}
    return Outcome(tmp_path_factory.mktemp("one")).run(model, 1, fresh | later)


def close_to(curve, expected):
    assert [row["loss"] for row in curve] == pytest.approx([loss for loss, _ in expected], abs=2e-4)
    assert [row["norm"] for row in curve] == pytest.approx([norm for _, norm in expected], rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_every_stage_takes_the_steps_of_plain_torch(two, reference, name):
    close_to(two.curves[name][:STEPS], reference[0])


def test_one_rank_takes_the_steps_of_plain_torch(one, reference):
    close_to(one.curves["alone"][:STEPS], reference[0])


@pytest.mark.parametrize("name", [*CASES, *LOW, *FROZEN])
def test_a_return_to_a_checkpoint_repeats_the_steps_to_the_last_bit(two, name):
    curve = two.curves[name]
    assert curve[STEPS:] == curve[1:STEPS]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.get("export")])
def test_the_exported_folder_holds_the_weights(two, reference, name):
    exported, weights = families.load(two.folder / name / "hf").model.state_dict(), reference[1]
    assert exported.keys() == weights.keys()
    worst = max((exported[name] - weights[name]).abs().max().item() for name in weights)
    assert worst < 2 * RATE * 0.2, worst  # Adam's first steps are signs of gradients: tiny ones may round either way


@pytest.mark.parametrize("name", ["zero 0", "zero 1", "zero 2", "zero 3", "zero 3, all offloaded"])
def test_a_checkpoint_of_two_ranks_is_continued_by_one(one, two, name):
    mine, theirs = one.curves[name], two.curves[name][1:STEPS]
    assert [row["step"] for row in mine] == [2, 3]
    assert mine[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-5)  # the weights were restored
    assert mine[0]["norm"] == pytest.approx(theirs[0]["norm"], rel=1e-4)
    assert mine[1]["loss"] == pytest.approx(theirs[1]["loss"], abs=2e-4)  # and the moments


@pytest.mark.parametrize("name", ["bfloat16 0", "bfloat16 3"])
def test_so_is_one_in_bfloat16_under_another_stage(one, two, name):
    mine, theirs = one.curves[name], two.curves[name][1:STEPS]
    assert [row["loss"] for row in mine] == pytest.approx([row["loss"] for row in theirs], abs=5e-2)


@pytest.mark.parametrize("name", LOW)
def test_bfloat16_learns_too(two, reference, name):
    assert all(row["norm"] > 0 for row in two.curves[name])
    losses = [row["loss"] for row in two.curves[name][:STEPS]]
    assert losses == pytest.approx([loss for loss, _ in reference[0]], abs=0.1)


@pytest.mark.parametrize("name", EXPLODING)
def test_an_infinite_gradient_is_skipped_and_counted(two, name):
    curve = two.curves[name]
    assert [row["norm"] is None for row in curve] == [False, True, False]
    assert curve[-1]["skipped"] == 1
    assert curve[-1]["loss"] < curve[0]["loss"] + 1.0


def test_a_full_disk_costs_the_checkpoint_but_neither_the_last_one_nor_the_run(two, reference):
    assert two.restored["disk full"] == {"step": 1, "failed": 1}
    close_to(two.curves["disk full"][:STEPS], reference[0])
    assert any("the checkpoint of step 2 could not be written" in warning for warning in two.warnings)
    assert not (two.folder / "disk full" / ".checkpoints" / ".writing").exists()


def test_a_damaged_checkpoint_is_named(model, two, tmp_path):
    folder = tmp_path / "copy" / ".checkpoints" / "step-000001"
    folder.mkdir(parents=True)
    for path in (two.folder / "zero 0" / ".checkpoints" / "step-000001").iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[: -100 if path.name.startswith("state-") else None])
    with pytest.raises(TrainingError, match=r"step-000001 is damaged.*delete that folder"):
        Outcome(tmp_path).run(model, 1, {"copy": {"source": str(tmp_path / "copy")}})


def test_poisoned_steps_change_nothing_and_five_in_a_row_end_the_training(model, tmp_path):
    outcome = Outcome(tmp_path)
    with pytest.raises(TrainingError, match="5 steps in a row had a loss"):
        outcome.run(model, 2, {"poisoned": {"steps": 9, "poison": [2, 4, 5, 6, 7, 8]}})
    curve = outcome.curves["poisoned"]
    assert [row["norm"] is None for row in curve] == [False, True, False, True, True, True, True]
    assert curve[-1]["skipped"] == 5
