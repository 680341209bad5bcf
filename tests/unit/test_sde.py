"""The SDE against what can be computed without it: Gaussian data, whose velocity is known, and torch's normals."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from longrl.config import SamplingSettings
from longrl.diffusion.schedule import window
from longrl.diffusion.sde import Transition, gaussian_kl, guided, logprob, noise_at, transition

MEAN, DEVIATION = 1.5, 0.4  # of the data
KINDS = [("flow_grpo", 0.7), ("flow_grpo", 0.3), ("dance_grpo", 0.3)]


def exact_velocity(t):
    """v = slope x + rest for x_0 ~ N(MEAN, DEVIATION²): the regression of e - x_0 on x_t, from their covariances."""
    variance = (1 - t) ** 2 * DEVIATION**2 + t**2
    slope = (t - (1 - t) * DEVIATION**2) / variance  # cov(e - x_0, x_t) / var(x_t)
    return slope, -MEAN - slope * (1 - t) * MEAN


def carried(kind, level, steps):
    """Mean and deviation at t = 0 of a Gaussian carried exactly through the chain of transitions."""
    levels = np.linspace(1.0, 0.0, steps + 1)
    mean, variance = 0.0, 1.0
    for t, following in pairwise(levels):
        step = transition(t, following, kind, level if following > 0 else 0.0)
        slope, rest = exact_velocity(t)
        factor = step.keep + step.push * slope
        mean, variance = factor * mean + step.push * rest, factor**2 * variance + step.std**2
    return mean, math.sqrt(variance)


@pytest.mark.parametrize(("kind", "level"), [*KINDS, ("flow_grpo", 0.0)])
def test_gaussian_data_comes_out_whatever_the_noise(kind, level):
    mean, deviation = carried(kind, level, 4000)
    assert mean == pytest.approx(MEAN, abs=2e-2)
    assert deviation == pytest.approx(DEVIATION, abs=1e-2)


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_the_error_shrinks_with_the_steps(kind, level):
    gaps = [abs(carried(kind, level, steps)[1] - DEVIATION) for steps in (10, 40, 160)]
    assert gaps[0] > gaps[1] > gaps[2]


@pytest.mark.parametrize(("kind", "level"), KINDS)
def test_marginals_on_the_way_are_those_of_the_ode(kind, level):
    """From the exact marginal at t = 0.6, many small steps lead to the exact marginal at 0.3."""
    levels = np.linspace(0.6, 0.3, 3001)
    mean, variance = 0.4 * MEAN, 0.4**2 * DEVIATION**2 + 0.6**2
    for t, following in pairwise(levels):
        step = transition(t, following, kind, level)
        slope, rest = exact_velocity(t)
        factor = step.keep + step.push * slope
        mean, variance = factor * mean + step.push * rest, factor**2 * variance + step.std**2
    assert mean == pytest.approx(0.7 * MEAN, abs=1e-3)
    assert variance == pytest.approx(0.7**2 * DEVIATION**2 + 0.3**2, rel=2e-3)


def test_two_modes_come_out_of_the_sde_as_out_of_the_data():
    """A mixture of two Gaussians, its velocity by Bayes' rule: modes, weights and widths of 20,000 samples."""
    centres, weights, width = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.7]), 0.25

    def velocity(x, t):
        variance = (1 - t) ** 2 * width**2 + t**2
        gaps = x[:, None] - (1 - t) * centres
        share = torch.softmax(weights.log() - gaps**2 / (2 * variance), 1)
        of_mode = ((t - (1 - t) * width**2) * gaps / variance) - centres  # E[e - x_0 | x_t, mode]
        return (share * of_mode).sum(1)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=generator)
    levels = torch.linspace(1.0, 0.0, 301).tolist()
    for t, following in pairwise(levels):
        step = transition(t, following, "flow_grpo", 0.7 if following else 0.0)
        x = step.mean(x, velocity(x, t)) + step.std * torch.randn(len(x), generator=generator)
    right = x[x > 0.5]
    assert len(right) / len(x) == pytest.approx(0.7, abs=0.02)
    assert right.mean() == pytest.approx(2.0, abs=0.03)
    assert right.std() == pytest.approx(width, abs=0.03)


@pytest.mark.parametrize(("kind", "level"), KINDS)
@pytest.mark.parametrize(("t", "following"), [(1.0, 0.9), (0.7, 0.5), (0.2, 0.1)])
def test_a_step_is_flow_grpo_s_written_out(kind, level, t, following):
    x, v = torch.randn(3, 4), torch.randn(3, 4)
    s = level if kind == "dance_grpo" else level * math.sqrt(t / (1 - (t if t < 1 else following)))
    dt = following - t
    mean = x + (v + s**2 / (2 * t) * (x + (1 - t) * v)) * dt
    step = transition(t, following, kind, level)
    torch.testing.assert_close(step.mean(x, v), mean)
    assert step.std == pytest.approx(s * math.sqrt(-dt))


def test_logprobs_are_those_of_torch_s_normal():
    there, mean, std = torch.randn(5, 3, 2), torch.randn(5, 3, 2), 0.37
    torch.testing.assert_close(logprob(there, mean, std), Normal(mean, std).log_prob(there).mean((1, 2)))


def test_the_kl_is_that_of_torch_s_normals():
    x, v, reference = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6)
    step = transition(0.7, 0.55, "flow_grpo", 0.7)
    ours = Normal(step.mean(x, v), step.std), Normal(step.mean(x, reference), step.std)
    torch.testing.assert_close(gaussian_kl(v, reference, step), kl_divergence(*ours).mean(1))


def test_the_kl_is_the_paper_s_closed_form():
    """Flow-GRPO, section 4.2: dt / 2 (s (1 - t) / (2 t) + 1 / s)² |v - v_ref|²."""
    t, following = 0.8, 0.6
    s = noise_at(t, following, "flow_grpo", 0.7)
    v, reference = torch.randn(2, 9), torch.randn(2, 9)
    paper = (t - following) / 2 * (s * (1 - t) / (2 * t) + 1 / s) ** 2 * (v - reference).square().mean(1)
    torch.testing.assert_close(gaussian_kl(v, reference, transition(t, following, "flow_grpo", 0.7)), paper)


def test_guidance_of_one_is_none():
    one, other = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(guided(one, other, 1.0), one)


def test_the_window_moves_and_never_holds_the_last_step():
    settings = SamplingSettings(steps=6, window=2)
    seen = {tuple(window(settings, f"0 {step}")) for step in range(200)}
    assert seen == {(0, 1), (1, 2), (2, 3), (3, 4)}
    early = SamplingSettings(steps=6, window=2, window_to=3)
    assert {window(early, f"{step}").start for step in range(50)} == {0, 1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 4, "window": 4}, "a window of 4 does not fit between steps 0 and 3"),
        ({"steps": 4, "window_to": 4}, "the last of 4 steps follows the ODE"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        SamplingSettings(**settings)


def test_the_ode_has_no_noise():
    assert transition(0.5, 0.25, "dance_grpo", 0.0) == Transition(1.0, -0.25, 0.0)
