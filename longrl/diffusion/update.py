"""From samples with advantages to new weights: PPO's clipped ratio on every trained denoising step, and the KL.

    1/N sum_i 1/W sum_w [ -min(r_iw A_i, clip(r_iw, 1 - e, 1 + e) A_i) + kl KL_iw ]

r_iw is the ratio of a step's densities now and when it was sampled, A_i the sample's advantage, KL_iw the closed-form
KL of the step's Gaussian to the reference's. Source: Flow-GRPO (arXiv:2505.05470), sections 4.1 and 4.2; clipping is
that of `longrl.training.losses`, a denoising step being what a token is there.

The mean is over the mini-batch of all ranks and forwards. With one update a batch the ratio is 1 and clipping can't
act. `gap` is the largest |logprob now - when sampled| before the first update: sampling and scoring are the same
function, so it is rounding, and a large one is a defect.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from longrl.diffusion.encoded import rows_of
from longrl.diffusion.policy import Policy
from longrl.diffusion.rollout import Batch, Drawer
from longrl.diffusion.sampler import Velocity
from longrl.diffusion.sde import gaussian_kl, logprob, transition
from longrl.training.losses import clipped_policy_loss
from longrl.training.stopwatch import Stopwatch

Item = tuple[int, int]  # sample, place in the window


@dataclass
class Sums:
    """Sums over this rank's trained steps."""

    loss: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    items: int = 0
    gap: float = 0.0  # largest, not a sum
    norms: list[float] = field(default_factory=list)  # of each update's gradient, before clipping


class Updater:
    """Updates the policy from batches; every rank calls it with its own."""

    def __init__(self, drawer: Drawer, policy: Policy, clock: Stopwatch):
        self.drawer, self.policy, self.clock = drawer, policy, clock
        self.engine, self.settings = drawer.engine, drawer.settings

    def update(self, batch: Batch, rate: float) -> Sums:
        """Take the batch's updates with this learning rate; one in which no rank has anything to learn is none."""
        sums = Sums()
        parts = self.settings.updates_per_batch
        for part in range(parts):
            samples = batch.taught[part::parts]
            (items,) = self.engine.total(len(samples) * len(batch.window))
            if not items:
                continue
            self._accumulate(batch, samples, items, sums, first=part == 0)
            with self.clock("update"):
                norm = self.engine.step(rate)
            sums.norms += [] if norm is None else [norm]
        return sums

    def _accumulate(self, batch: Batch, samples: list[int], items: float, sums: Sums, first: bool) -> None:
        """Forwards and backwards of a mini-batch, equally many on every rank."""
        size = self.settings.sampling.batch
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        for number in range(most(len(chunks), self.engine.device)):
            for place in range(len(batch.window)):
                mine = chunks[number] if number < len(chunks) else []

                def compute(mine: list[int] = mine, place: int = place) -> Tensor:
                    with self.clock("forward"):
                        if not mine:
                            return self._loss(batch, [0], place, Sums(), False) * 0.0
                        return self._loss(batch, mine, place, sums, first) * self.engine.share(items)

                with self.clock("backward"):
                    self.engine.loss(compute)

    def _loss(self, batch: Batch, samples: list[int], place: int, sums: Sums, first: bool) -> Tensor:
        """Sum of the loss over one step of these samples, a scalar; adds to `sums`."""
        drawer, sampling = self.drawer, self.settings.sampling
        step = batch.window[place]
        t, following = drawer.levels[step], drawer.levels[step + 1]
        chance = transition(t, following, sampling.noise, sampling.noise_level)
        kept = [drawer.store.get(sample) for sample in samples]
        here = torch.stack([states[place] for states, _ in kept]).to(drawer.device)
        there = torch.stack([states[place + 1] for states, _ in kept]).to(drawer.device)
        old = torch.stack([logprobs[place] for _, logprobs in kept]).to(drawer.device)
        words = rows_of(drawer.conditioning, [batch.prompts[one].prompt_id for one in samples], drawer.device)
        levels = torch.full((len(samples),), t, device=drawer.device)
        velocity = Velocity(drawer.family, self.engine.model, drawer.negative, sampling.guidance)
        found = velocity(here, levels, words)
        new = logprob(there, chance.mean(here, found), chance.std)
        advantages = batch.advantages[samples].to(drawer.device)
        loss, clipped = clipped_policy_loss(new, old, advantages, self.settings.clip, self.settings.clip)
        if self.settings.kl:
            with self.clock("reference"), torch.no_grad(), self.policy.reference() as reference:
                before = Velocity(drawer.family, reference, drawer.negative, sampling.guidance)(here, levels, words)
            kl = gaussian_kl(found, before, chance)
            loss = loss + self.settings.kl * kl
            sums.kl += float(kl.detach().sum())
        sums.loss += float(loss.detach().sum())
        sums.clipped += float(clipped.sum())
        sums.items += len(samples)
        if first:
            sums.gap = max(sums.gap, float((new - old).detach().abs().max()))
        return loss.sum()


def most(count: int, device: torch.device) -> int:
    """The largest of all ranks' counts."""
    tensor = torch.tensor(count, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
