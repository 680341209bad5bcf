"""Losses against calculations made another way: written-out cases, autograd and numeric integration."""

import math

import pytest
import torch

from longrl.training.losses import clipped_policy_loss, kl_k1, kl_k3, truncated_importance, weighted_cross_entropy


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("gap", [-0.6, -0.1, 0.0, 0.1, 0.6])
def test_policy_loss_and_gradient_equal_the_written_out_cases(advantage, gap):
    new = torch.tensor([gap], requires_grad=True)
    loss, clipped = clipped_policy_loss(new, torch.zeros(1), torch.tensor([advantage]), clip_low=0.2, clip_high=0.3)
    ratio = math.exp(gap)
    outside = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.8)
    bound = 1.3 if advantage > 0 else 0.8
    assert loss.item() == pytest.approx(-(bound if outside else ratio) * advantage, rel=1e-5)
    assert clipped.item() == outside
    loss.sum().backward()
    assert new.grad.item() == pytest.approx(0.0 if outside else -ratio * advantage, rel=1e-5)


def test_on_policy_gradient_is_reinforce():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(1), requires_grad=True)
    actions, advantages = torch.arange(6), torch.linspace(-1, 1, 6)
    logprobs = logits.log_softmax(-1)[torch.arange(6), actions]
    loss, _ = clipped_policy_loss(logprobs, logprobs.detach(), advantages, 0.2, 0.2)
    loss.sum().backward()
    softmax = logits.detach().softmax(-1)
    expected = -(torch.nn.functional.one_hot(actions, 11) - softmax) * advantages[:, None]
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("estimate", [kl_k1, kl_k3])
def test_the_estimates_of_the_kl_are_unbiased(estimate):
    generator = torch.Generator().manual_seed(2)
    policy = torch.randn(7, generator=generator).log_softmax(-1)
    reference = torch.randn(7, generator=generator).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    expectation = (policy.exp() * estimate(policy, reference)).sum()
    torch.testing.assert_close(expectation, exact)
    assert (kl_k3(policy, reference) >= 0).all()


def test_importance_weights_are_capped_and_carry_no_gradient():
    trainer = torch.tensor([-1.0, -0.1], requires_grad=True)
    weights = truncated_importance(trainer, torch.tensor([-1.5, -5.0]), cap=2.0)
    assert weights.tolist() == pytest.approx([math.exp(0.5), 2.0])
    assert not weights.requires_grad


def test_cross_entropy_sums_equal_torchs():
    logits = torch.randn(9, 13, generator=torch.Generator().manual_seed(3))
    targets, weights = torch.arange(9), torch.rand(9, generator=torch.Generator().manual_seed(4))
    logprobs = logits.log_softmax(-1)[torch.arange(9), targets]
    expected = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(weighted_cross_entropy(logprobs, weights), expected)
