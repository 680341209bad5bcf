"""RL's updates on real ranks against the papers' formulas on one process, every response computed by itself."""

import pytest
import torch

from longrl.config import RlSettings
from longrl.models import families
from longrl.mrsp.prefix import group_logprobs
from longrl.training.algorithms import ALGORITHMS, algorithm
from longrl.training.launch import launch
from tests import plain_rl
from tests.distributed.update_loop import REWARDS, SCRIPTS, batch_for, made_groups
from tests.tiny_student import build_student

METRICS = ("loss", "kl", "clip_fraction", "importance_weight", "entropy", "parity_gap", "updates", "groups")
CASES = [{"algorithm": name, "kl": 0.1, "group_size": 3} for name in ALGORITHMS]
CASES += [{"algorithm": "dapo", "kl": 0.1, "kl_estimator": "k1", "group_size": 3}]
CASES += [{"algorithm": "grpo", "kl": 0.0, "group_size": 3}]
HALVES = {"algorithm": "grpo", "group_size": 3, "updates_per_batch": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [build_student(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)]


@pytest.fixture(
    scope="module",
    params=[(0, 1), (0, 2), pytest.param((3, 1), marks=pytest.mark.slow)],
    ids=["zero0", "sequences-shared", "zero3"],
)
def ran(request, folders, tmp_path_factory):
    """What the ranks told: updates case by case, and what they collected."""
    zero_stage, degree = request.param
    ranks = 2
    told = []
    job = {
        "model": str(folders[0]), "reference": str(folders[1]), "zero_stage": zero_stage, "degree": degree,
        "metrics": METRICS, "cases": [*CASES, HALVES, HALVES | {"rate": 0.01}], "collect": ["dapo", "reinforce++"],
    }  # fmt: skip
    launch("tests.distributed.update_loop", job, ranks, tmp_path_factory.mktemp("ranks"), told.append)
    by_rank = [[message for message in told if message["rank"] == rank] for rank in range(ranks)]
    updated = [[message for message in part if message["kind"] == "updated"] for part in by_rank]
    collected = [[message for message in part if message["kind"] == "collected"] for part in by_rank]
    return updated, collected


def plainly(folders, case, parts=1, part=0):
    """Loss, its gradient's norm, and the mean KL, from one process and the papers' formulas."""
    student, reference = (families.load(folder) for folder in folders)
    settings = RlSettings(**case)
    chosen = algorithm(settings)
    samples = made_groups(student)
    ours = {sample.question_id for sample in batch_for(samples, chosen).chosen}
    in_loss = [number for number, sample in enumerate(samples) if sample.question_id in ours]
    found = plain_rl.advantages(settings.algorithm, [REWARDS[number] for number in in_loss])
    advantages = dict(zip(in_loss, found, strict=True))
    new, old, before, importance, flat = [], [], [], [], []
    for number in mini_batch(in_loss, parts, part):
        sample = samples[number]
        for response, total, advantage in zip(sample.rollouts, REWARDS[number], advantages[number], strict=True):
            if total is None:
                continue
            asked = (sample.request.prompt, sample.request.embeds, [response.token_ids])
            [row] = group_logprobs(student, *asked)
            with torch.no_grad():
                [ref] = group_logprobs(reference, *asked)
            new.append(row)
            old.append(row.detach())
            before.append(ref)
            importance.append((row.detach() + 5.0).exp().clamp(max=2.0))
            flat.append(advantage)
    gaps = [ref - row for ref, row in zip(before, new, strict=True)]
    kl = [-gap if settings.kl_estimator == "k1" else gap.exp() - gap - 1 for gap in gaps]
    penalty = [settings.kl * row for row in kl]
    ranges = (chosen.clip_low, chosen.clip_high, settings.max_tokens)
    loss = plain_rl.loss(settings.algorithm, new, old, flat, *ranges, importance, penalty)
    parameters = [p for name, p in student.model.named_parameters() if ".visual." not in name]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
    return loss.item(), norm.item(), torch.cat(kl).mean().item(), torch.cat(importance).mean().item()


def mini_batch(in_loss, parts, part, ranks=2):
    """The groups of a mini-batch: each rank deals out its own."""
    return [number for rank in range(ranks) for number in in_loss[rank::ranks][part::parts]]


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, c.values())) for c in CASES])
def test_loss_and_gradient_over_two_ranks_equal_the_formula(ran, folders, number):
    loss, norm, kl, weight = plainly(folders, CASES[number])
    for rank in ran[0]:
        row = rank[number]
        assert row["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-5)
        assert row["norms"] == [pytest.approx(norm, rel=1e-3)]
        assert row["clip_fraction"] == 0.0
        if CASES[number]["kl"]:
            assert row["kl"] == pytest.approx(kl, rel=1e-3)
            assert row["importance_weight"] == pytest.approx(weight, rel=1e-3)
        else:
            assert row["kl"] is None


def test_groups_without_a_gradient_count_but_are_not_computed(ran):
    """Without a KL the equal group of GRPO is in its mean, and no token of it is scored."""
    rows = ran[0][0]
    with_kl, without = rows[list(ALGORITHMS).index("grpo")], rows[len(CASES) - 1]
    assert with_kl["groups"] == without["groups"] == 5
    assert with_kl["entropy"] != without["entropy"]


def test_a_batch_in_halves_is_two_updates_each_a_mean_over_its_half(ran, folders):
    row = ran[0][0][len(CASES)]
    expected = [plainly(folders, HALVES, parts=2, part=part)[1] for part in range(2)]
    assert row["norms"] == pytest.approx(expected, rel=1e-3)
    assert (row["updates"], row["clip_fraction"]) == (2, 0.0)  # at a rate of 0 nothing has moved


def test_clipping_acts_from_the_second_update_on(ran):
    row = ran[0][0][len(CASES) + 1]
    assert row["updates"] == 2
    assert 0 < row["clip_fraction"] < 1
    assert row["parity_gap"] == pytest.approx(ran[0][0][len(CASES)]["parity_gap"])  # measured before the first


@pytest.mark.parametrize("place", [0, 1], ids=["dapo", "reinforce++"])
def test_ranks_choose_and_normalise_as_one(ran, place):
    parts = [rank[place] for rank in ran[1]]
    advantages = {name: values for part in parts for name, values in part["advantages"].items()}
    assert len(advantages) == sum(len(part["advantages"]) for part in parts)
    assert parts[0]["prompts"] == parts[1]["prompts"]
    worth = {"R": 1.0, "W": 0.1, "C": 0.0}
    groups = {f"q{number}": [worth[letter] for letter in script] for number, script in enumerate(SCRIPTS)}
    names = sorted(advantages)
    expected = plain_rl.advantages(parts[0]["name"], [groups[name] for name in names])
    assert [advantages[name] for name in names] == [pytest.approx(row, abs=1e-5) for row in expected]
