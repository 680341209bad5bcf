"""The flow-matching sampler as a chain of Gaussians: steps of an SDE with the marginals of the ODE.

Notation of Flow-GRPO (arXiv:2505.05470): the noise level t runs from 1 (noise) to 0 (data), x_t = (1 - t) x_0 + t e
with e ~ N(0, I), and the model predicts the velocity v = E[e - x_0 | x_t]. The ODE dx = v dt has the same marginals as

    dx = [v + s²/(2t) (x + (1 - t) v)] dt + s dw                                                        (section 4.2)

for any noise s(t): the bracket's second part is -s²/2 times the score, which at t is -(x + (1 - t) v)/t. One
Euler-Maruyama step from t to t' < t is a Gaussian whose mean is linear in x and v:

    x' ~ N(keep x + push v, std² I),   std = s sqrt(t - t')

All that is sampled, scored or compared in RL is such a `Transition`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Noise = Literal["flow_grpo", "dance_grpo"]


@dataclass(frozen=True)
class Transition:
    """One denoising step: x' ~ N(keep x + push v, std² I); std 0 is the ODE's step."""

    keep: float
    push: float
    std: float

    def mean(self, x: Tensor, velocity: Tensor) -> Tensor:
        """The expected x' of states x and velocities v of the same shape."""
        return self.keep * x + self.push * velocity


def noise_at(t: float, following: float, kind: Noise, level: float) -> float:
    """The SDE's noise s(t) on the step from `t` to `following`.

    `flow_grpo`: level sqrt(t / (1 - t)) (Flow-GRPO, section 4.2). At t = 1, where that is infinite, 1 - t is taken
    of the step's end, as the authors' code does. `dance_grpo`: level everywhere (DanceGRPO, arXiv:2505.07818).

    >>> noise_at(0.5, 0.4, "flow_grpo", 0.7), noise_at(0.5, 0.4, "dance_grpo", 0.3)
    (0.7, 0.3)
    """
    if kind == "dance_grpo":
        return level
    return level * math.sqrt(t / (1.0 - (t if t < 1.0 else following)))


def transition(t: float, following: float, kind: Noise, level: float) -> Transition:
    """The step from noise level `t` to `following` < t; `level` 0 is the ODE's Euler step.

    >>> transition(0.5, 0.25, "flow_grpo", 0.0)
    Transition(keep=1.0, push=-0.25, std=0.0)
    """
    dt = following - t
    s = noise_at(t, following, kind, level) if level else 0.0
    drift = s * s / (2.0 * t)
    return Transition(1.0 + drift * dt, (1.0 + drift * (1.0 - t)) * dt, s * math.sqrt(-dt))


def logprob(following: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log density of x' (B, ...) under N(mean, std² I), as a *mean over elements* (B,), float32, natural logarithm.

    The mean and not the sum, as Flow-GRPO's code has it: the ratio of two policies is then the geometric mean over
    elements of their ratios and of one size for small and large pictures. Clip ranges are small for the same reason.

    >>> import torch
    >>> logprob(torch.zeros(1, 3), torch.zeros(1, 3), 1.0)
    tensor([-0.9189])
    """
    squares = (following.float() - mean.float()).square().flatten(1).mean(1)
    return -squares / (2.0 * std**2) - math.log(std) - 0.5 * math.log(2.0 * math.pi)


def gaussian_kl(velocity: Tensor, reference: Tensor, step: Transition) -> Tensor:
    """KL of a step's Gaussian under the policy to that under the reference, a mean over elements (B,), float32.

    Both have the same variance, so it is |mean - mean_ref|² / (2 std²), and the means differ by push (v - v_ref).
    Source: Flow-GRPO (arXiv:2505.05470), section 4.2, in its closed form.

    >>> import torch
    >>> gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2), Transition(1.0, -0.5, 0.5))
    tensor([0.5000])
    """
    gap = (velocity.float() - reference.float()).square().flatten(1).mean(1)
    return gap * (step.push**2 / (2.0 * step.std**2))


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598) as diffusers writes it: v_un + guidance (v_cond - v_un).

    >>> import torch
    >>> guided(torch.tensor([1.0]), torch.tensor([0.5]), 3.0)
    tensor([2.])
    """
    return unconditional + guidance * (conditional - unconditional)
