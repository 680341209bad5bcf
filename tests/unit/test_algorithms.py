"""Every algorithm against its paper's formula written out in loops, and against TRL where TRL has it."""

import doctest
from collections import defaultdict
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from longrl.config import RlSettings
from longrl.training import losses
from longrl.training.algorithms import ALGORITHMS, algorithm, base
from tests import plain_rl

NAMES = list(ALGORITHMS)
LONGEST = 9


def test_the_examples_hold():
    assert doctest.testmod(base).failed == doctest.testmod(losses).failed == 0


def test_the_settings_name_every_algorithm():
    assert set(get_args(RlSettings.model_fields["algorithm"].annotation)) == set(ALGORITHMS)


def test_clip_ranges_are_the_algorithm_s_own_unless_set():
    own, given_ = algorithm(RlSettings(algorithm="gspo")), algorithm(RlSettings(algorithm="gspo", clip_high=0.5))
    assert (own.clip_low, own.clip_high, given_.clip_low, given_.clip_high) == (3e-4, 4e-4, 3e-4, 0.5)


class Draw:
    """Three groups of four ragged responses, after some updates: ratios on both sides of every bound."""

    def __init__(self, seed: int):
        random = torch.Generator().manual_seed(seed)
        self.rewards = [[1.0, 0.1, 0.0, 0.9], [0.1, 0.1, 0.1, 1.0], [1.0, 0.0, 0.9, 0.9]]
        self.lengths = torch.randint(1, LONGEST + 1, (12,), generator=random)
        tokens = int(self.lengths.sum())
        self.old = -2 * torch.rand(tokens, generator=random, dtype=torch.float64)
        drift = torch.randn(12, generator=random, dtype=torch.float64).repeat_interleave(self.lengths)
        self.new = self.old + 0.3 * torch.randn(tokens, generator=random, dtype=torch.float64) + 0.3 * drift
        self.reference = self.old + 0.3 * torch.randn(tokens, generator=random, dtype=torch.float64)
        self.weights = 2 * torch.rand(tokens, generator=random, dtype=torch.float64)

    def rows(self, values):
        return list(values.split(self.lengths.tolist()))


def ours(chosen, draw, beta=0.0):
    """Loss and gradient as the updater puts them together."""
    new = draw.new.clone().requires_grad_()
    rewards = torch.tensor(draw.rewards)
    advantages = chosen.advantages(rewards, torch.ones_like(rewards, dtype=torch.bool)).double().flatten()
    loss, clipped = chosen.loss(new, draw.old, advantages, draw.lengths)
    gap = draw.reference - new
    loss = loss * draw.weights + beta * (gap.exp() - gap - 1)
    total = (loss * chosen.weights(draw.lengths)).sum() / chosen.size(draw.lengths)
    total.backward()
    return total.detach(), new.grad, clipped, advantages


@pytest.mark.parametrize("name", NAMES)
def test_advantages_equal_the_formula(name):
    groups = [[1.0, 0.1, 0.0, 0.9], [0.1, None, 0.9, 1.0], [None, 0.4, None, None], [0.9, 0.9, 0.9, 0.9]]
    rewards = torch.tensor([[0.0 if r is None else r for r in group] for group in groups])
    kept = torch.tensor([[r is not None for r in group] for group in groups])
    found = ALGORITHMS[name](LONGEST).advantages(rewards, kept)
    torch.testing.assert_close(found, torch.tensor(plain_rl.advantages(name, groups)), atol=1e-5, rtol=1e-5)
    assert (found[~kept] == 0).all()
    if name != "reinforce++":  # which compares groups with one another
        assert (found[3] == 0).all()


@pytest.mark.parametrize("high", [0.28, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_equal_the_formula(name, high):
    draw = Draw(seed=NAMES.index(name))
    total, gradient, clipped, _ = ours(ALGORITHMS[name](LONGEST, 0.15, high), draw, beta=0.04)
    new = draw.new.clone().requires_grad_()
    penalty = 0.04 * (torch.exp(draw.reference - new) - (draw.reference - new) - 1)
    flat = [value for group in plain_rl.advantages(name, draw.rewards) for value in group]
    rows = (draw.rows(new), draw.rows(draw.old), flat, 0.15, high, LONGEST, draw.rows(draw.weights))
    expected = plain_rl.loss(name, *rows, draw.rows(penalty))
    expected.backward()
    assert 0 < clipped.sum() < len(clipped)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, new.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_summed_over_micro_batches_is_the_whole(name, data):
    """Wherever a response is computed, it weighs the same."""
    draw, chosen = Draw(seed=5), ALGORITHMS[name](LONGEST, 0.15, 0.1)
    total, gradient, _, advantages = ours(chosen, draw)
    place = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=12, max_size=12)))
    new = draw.new.clone().requires_grad_()
    rows, old, weights = draw.rows(new), draw.rows(draw.old), draw.rows(draw.weights)
    parts, size = [], 0.0
    for part in range(3):
        mine = (place == part).nonzero()[:, 0].tolist()
        if mine:
            lengths = draw.lengths[mine]
            loss, _ = chosen.loss(
                torch.cat([rows[i] for i in mine]), torch.cat([old[i] for i in mine]), advantages[mine], lengths
            )
            parts.append((loss * torch.cat([weights[i] for i in mine]) * chosen.weights(lengths)).sum())
            size += chosen.size(lengths)
    (sum(parts) / size).backward()
    torch.testing.assert_close(sum(parts).detach() / size, total)
    torch.testing.assert_close(new.grad, gradient)


@pytest.mark.parametrize("name", NAMES)
def test_on_fresh_samples_every_algorithm_follows_the_advantage(name):
    """With new = old nothing is clipped, and a token's gradient is -A times its weight."""
    draw = Draw(seed=1)
    draw.new, draw.weights = draw.old, torch.ones_like(draw.weights)
    chosen = ALGORITHMS[name](LONGEST)
    _, gradient, clipped, advantages = ours(chosen, draw)
    share = 1.0 / draw.lengths if name in ("grpo", "gspo") else torch.ones(12)
    expected = -(advantages * share).repeat_interleave(draw.lengths) / chosen.size(draw.lengths)
    assert not clipped.any()
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


TRL = [
    ("grpo", {"loss_type": "grpo"}),
    ("dr_grpo", {"loss_type": "dr_grpo"}),
    ("dapo", {"loss_type": "dapo"}),
    ("dapo", {"loss_type": "bnpo"}),
    ("gspo", {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    ("cispo", {"loss_type": "cispo", "epsilon_high": 1.25}),
]


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl")


@pytest.mark.parametrize(("name", "kind"), TRL, ids=[f"{name}-{kind['loss_type']}" for name, kind in TRL])
def test_loss_and_gradient_equal_trl_s_own(trl, name, kind):
    """The loss of TRL's GRPOTrainer, its vLLM correction and its KL included, on the same logprobs."""
    draw = Draw(seed=7)
    total, gradient, _, advantages = ours(ALGORITHMS[name](LONGEST, 0.15, 0.25), draw, beta=0.04)
    new = draw.new.clone().requires_grad_()
    logprobs, old, reference, weights = (
        pad_sequence(draw.rows(values), batch_first=True) for values in (new, draw.old, draw.reference, draw.weights)
    )
    trainer = bare_trainer(trl.GRPOTrainer, logprobs, **kind)
    loss = trainer._compute_loss(
        trainer.model,
        batch_of(draw, logprobs, advantages)
        | {"old_per_token_logps": old, "ref_per_token_logps": reference, "importance_sampling_ratio": weights},
    )
    loss.backward()
    torch.testing.assert_close(total, loss.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, new.grad, rtol=1e-5, atol=1e-7)


def test_rloo_equals_trl_s_own(trl):
    draw = Draw(seed=8)
    draw.weights = torch.ones_like(draw.weights)
    total, gradient, clipped, advantages = ours(ALGORITHMS["rloo"](LONGEST, 0.15, 0.25), draw)
    new = draw.new.clone().requires_grad_()
    logprobs = pad_sequence(draw.rows(new), batch_first=True)
    trainer = bare_trainer(trl.RLOOTrainer, logprobs)
    old = torch.stack([row.sum() for row in draw.rows(draw.old)])
    loss = trainer._compute_loss(trainer.model, batch_of(draw, logprobs, advantages) | {"old_logps": old})
    loss.backward()
    assert 0 < clipped.sum() < len(clipped)
    torch.testing.assert_close(total, loss.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, new.grad, rtol=1e-5, atol=1e-7)


def bare_trainer(kind, logprobs, **changes):
    """TRL's trainer without a model: only its loss is called, on these logprobs."""
    trainer = kind.__new__(kind)
    attributes = {
        "loss_type": "grpo", "importance_sampling_level": "token", "epsilon_low": 0.15, "epsilon_high": 0.25,
        "beta": 0.04, "use_vllm": True, "vllm_importance_sampling_correction": True, "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None, "aux_loss_enabled": False, "_entropy_bonus_enabled": False,
        "max_completion_length": LONGEST, "current_gradient_accumulation_steps": 1,
        "_metrics": {"train": defaultdict(list)}, "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        "accelerator": SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
    }  # fmt: skip
    for attribute, value in (attributes | changes).items():
        setattr(trainer, attribute, value)
    return trainer


def batch_of(draw, logprobs, advantages):
    """What TRL's loss is given beside logprobs."""
    mask = (torch.arange(logprobs.shape[1]) < draw.lengths[:, None]).long()
    prompt = torch.ones(12, 1, dtype=torch.long)
    return {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask,
        "advantages": advantages, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
