"""LoRA under DeepSpeed on real ranks: the steps of plain torch, checkpoints of what is trained, both references."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from longrl.models import families
from longrl.models.lora import add_lora, without_adapter
from longrl.mrsp.prefix import score
from longrl.training.launch import launch
from longrl.training.losses import kl_k3
from tests.adapters import LORA, with_adapter
from tests.distributed.lora_loop import RATE, STEPS, batch_loss, groups, tokens
from tests.tiny_student import build_student

CASES = {
    "zero 0": {"zero_stage": 0, "export": True},
    "zero 3": {"zero_stage": 3, "export": True},
    "sequences shared": {"zero_stage": 0, "degree": 2},
}
UPDATES = {
    "update": {"update": True},
    "update, sequences shared": {"update": True, "degree": 2},
    "update, zero 3": {"update": True, "zero_stage": 3},
}
MORE = {
    "zero 1, optimizer offloaded": {"zero_stage": 1, "offload": "optimizer"},
    "zero 2": {"zero_stage": 2},
    "zero 3, all offloaded": {"zero_stage": 3, "offload": "all"},
    "zero 2, sequences shared": {"zero_stage": 2, "degree": 2},
}
OTHERS = {
    "bfloat16": {"zero_stage": 2, "dtype": "bfloat16"},
    "dropout": {"zero_stage": 0, "lora": {"dropout": 0.3}},
}

pytestmark = pytest.mark.slow  # tests/unit/test_lora.py is for every day


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build_student(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plainly(model):
    """Losses and norms of plain torch on one process."""
    student = families.load(model)
    torch.manual_seed(0)
    student.freeze("tower", "projector")
    add_lora(student, LORA)
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    curve = []
    for step in range(1, STEPS + 1):
        everything = groups(student, step)
        loss = batch_loss(student, everything, 1.0 / tokens(everything))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        curve.append((loss.item(), norm.item()))
    return curve


class Outcome:
    """What a job's rank 0 said of steps and updates, by case."""

    def __init__(self, model: Path, folder: Path, ranks: int, cases: dict[str, dict]):
        self.folder, self.curves, self.updates = folder, defaultdict(list), defaultdict(list)
        listed = [{"name": name, "folder": str(folder / name)} | case for name, case in cases.items()]
        launch("tests.distributed.lora_loop", {"model": str(model), "cases": listed}, ranks, folder, self.listen)

    def listen(self, message):
        kind = message.pop("kind")
        if kind in ("step", "update") and message.pop("rank") == 0:
            (self.curves if kind == "step" else self.updates)[message.pop("case")].append(message)


@pytest.fixture(scope="module")
def two(model, tmp_path_factory):
    return Outcome(model, tmp_path_factory.mktemp("two"), 2, CASES | UPDATES)


@pytest.fixture(scope="module")
def more(model, tmp_path_factory):
    return Outcome(model, tmp_path_factory.mktemp("more"), 2, MORE | OTHERS)


@pytest.fixture(scope="module")
def one(model, two, tmp_path_factory):
    """One rank that goes on from the checkpoints of two, under another stage."""
    stages = {"zero 0": 3, "zero 3": 0}
    later = {name: {"source": str(two.folder / name), "zero_stage": stage} for name, stage in stages.items()}
    return Outcome(model, tmp_path_factory.mktemp("one"), 1, later)


def close_to(curve, plainly):
    assert [row["loss"] for row in curve] == pytest.approx([loss for loss, _ in plainly], abs=2e-4)
    assert [row["norm"] for row in curve] == pytest.approx([norm for _, norm in plainly], rel=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_every_stage_takes_the_steps_of_plain_torch(two, plainly, name):
    close_to(two.curves[name][:STEPS], plainly)


@pytest.mark.parametrize("name", CASES)
def test_a_return_to_a_checkpoint_repeats_the_steps_to_the_last_bit(two, name):
    assert two.curves[name][STEPS:] == two.curves[name][1:STEPS]


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_so_do_the_stages_and_offloads_between(more, plainly, name):
    close_to(more.curves[name][:STEPS], plainly)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MORE, *OTHERS])
def test_and_repeat_them_to_the_last_bit(more, name):
    assert more.curves[name][STEPS:] == more.curves[name][1:STEPS]


@pytest.mark.slow
def test_dropout_is_another_training_and_bfloat16_the_same_one(more, plainly):
    losses = {name: [row["loss"] for row in more.curves[name][:STEPS]] for name in OTHERS}
    assert abs(losses["dropout"][1] - plainly[1][0]) > 1e-3
    assert losses["bfloat16"] == pytest.approx([loss for loss, _ in plainly], abs=0.1)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_holds_what_is_trained_and_nothing_else(two, name):
    (path,) = (two.folder / name / ".checkpoints").glob("step-*/state-*.safetensors")
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    assert len(names) == 3 * 2 * 7 * 2  # weight and moments of A and B of seven matrices in two layers
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


@pytest.mark.parametrize("name", ["zero 0", "zero 3"])
def test_a_checkpoint_of_two_ranks_is_continued_by_one(one, two, name):
    mine, theirs = one.curves[name], two.curves[name][1:STEPS]
    assert [row["step"] for row in mine] == [2, 3]
    assert mine[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-5)
    assert [row["loss"] for row in mine] == pytest.approx([row["loss"] for row in theirs], abs=2e-4)


def test_zero_3_leaves_the_folders_of_zero_0(two):
    weights = [families.load(two.folder / name / "hf").model.state_dict() for name in ("zero 0", "zero 3")]
    assert weights[0].keys() == weights[1].keys()
    # Adam's first steps are signs of gradients: tiny ones may round either way.
    assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 2e-3
    files = [two.folder / name / "adapter" / "adapter_model.safetensors" for name in ("zero 0", "zero 3")]
    sizes = [path.stat().st_size for path in files]
    assert sizes[0] == sizes[1] > 4 * 4 * 128 * 2 * 7


@pytest.mark.parametrize("name", UPDATES)
def test_the_reference_is_the_student_without_its_adapter(two, name):
    switched_off, copied = two.updates[name]
    assert switched_off["kl"] > 0.01
    for number in ("loss", "kl", "norm"):
        assert switched_off[number] == pytest.approx(copied[number], rel=1e-6)


def test_and_its_kl_is_that_of_one_process(two, model):
    student = with_adapter(families.load(model))
    made = groups(student, 1)
    with torch.no_grad():
        new = score(student, made).logprobs
        with without_adapter(student.model):
            old = score(student, made).logprobs
    rows = zip(*(torch.cat([row for group in part for row in group]) for part in (new, old)), strict=True)
    kl = torch.stack([kl_k3(now, before) for now, before in rows]).mean().item()
    for name in UPDATES:
        assert two.updates[name][0]["kl"] == pytest.approx(kl, rel=1e-3)
    norms = [two.updates[name][0]["norm"] for name in UPDATES]
    assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-3)
