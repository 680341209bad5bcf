"""Drawing samples: the ODE of inference, and in RL an SDE within a window of steps whose states are kept.

One function draws for rollouts, for the evaluation and for the report; the velocity that it follows is the one whose
log-probabilities the update computes (`Velocity`), classifier-free guidance included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from longrl.config import SamplingSettings
from longrl.diffusion.families import Conditioning, Family
from longrl.diffusion.sde import guided, logprob, transition


@dataclass(frozen=True)
class Velocity:
    """A generator's velocity under classifier-free guidance; both passes are one forward of twice the batch."""

    family: Family
    transformer: nn.Module
    negative: Conditioning  # of one prompt: a row
    guidance: float

    def __call__(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocities (B, ...) of latents at noise levels t (B,) for prompts, a row of `conditioning` each."""
        if self.guidance <= 1.0:
            return self.family.velocity(self.transformer, latents, t, conditioning)
        count = len(latents)
        both = {
            name: torch.cat([rows, self.negative[name].to(rows).expand(count, *rows.shape[1:])])
            for name, rows in conditioning.items()
        }
        found = self.family.velocity(self.transformer, torch.cat([latents] * 2), torch.cat([t] * 2), both)
        return guided(found[:count], found[count:], self.guidance)


@dataclass
class Trajectory:
    """Samples with the part of their way that RL trains: W steps of the window, W + 1 states."""

    final: Tensor  # (B, ...): latents at noise level 0
    states: Tensor  # (B, W + 1, ...): before each step of the window, and after the last
    logprobs: Tensor  # (B, W): of each step, as the sampling policy had it


@torch.no_grad()
def draw(
    velocity: Velocity,
    noise: Tensor,
    conditioning: Conditioning,
    levels: Sequence[float],
    sampling: SamplingSettings | None = None,
    window: range = range(0),
    generators: Sequence[torch.Generator] = (),
) -> Trajectory:
    """Follow `levels` from noise (B, ...) to data: by the SDE of `sampling` within `window`, else by the ODE.

    Each sample has a generator of its own for the SDE's noise, so what it becomes does not depend on its batch.
    """
    latents = noise.to(torch.float32)
    states: list[Tensor] = [latents] if window and window.start == 0 else []
    logprobs: list[Tensor] = []
    for step, (t, following) in enumerate(pairwise(levels)):
        found = velocity(latents, torch.full((len(latents),), t, device=latents.device), conditioning)
        if step in window:
            assert sampling is not None
            chance = transition(t, following, sampling.noise, sampling.noise_level)
            mean = chance.mean(latents, found)
            latents = mean + chance.std * torch.stack([one_noise(mean[0], one) for one in generators])
            logprobs.append(logprob(latents, mean, chance.std))
        else:
            latents = transition(t, following, "flow_grpo", 0.0).mean(latents, found)
        if window and window.start <= step + 1 <= window.stop:
            states.append(latents)
    empty = latents.new_zeros(len(latents), 0)
    return Trajectory(latents, *(torch.stack(kept, 1) if kept else empty for kept in (states, logprobs)))


def one_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of one sample; drawn on the CPU, so every machine draws the same."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def seeded(*numbers: int) -> torch.Generator:
    """A generator for one sample, told from all others by these numbers.

    >>> float(torch.rand((), generator=seeded(1, 2))) == float(torch.rand((), generator=seeded(1, 2)))
    True
    """
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(seed)
