"""From prompts to samples with advantages: draws, rewards, advantages.

Each rank draws all G samples of its share of the prompts, so that advantages within a group need no other rank; what is
normalised over the batch is computed from the rewards of all. No pixels and no latents travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from longrl.config import GenerateRlSettings
from longrl.diffusion.encoded import rows_of
from longrl.diffusion.families import Conditioning, Family
from longrl.diffusion.rewards import Rewards, Scores
from longrl.diffusion.sampler import Velocity, draw, one_noise, seeded
from longrl.diffusion.schedule import window
from longrl.diffusion.store import Store
from longrl.training.algorithms import ALGORITHMS, varied
from longrl.training.engine import Engine
from longrl.training.stopwatch import Stopwatch

NORMALISED = {"group": ALGORITHMS["grpo"], "batch": ALGORITHMS["reinforce++-baseline"]}  # whose advantages are taken


@dataclass(frozen=True)
class Prompt:
    """What is drawn."""

    prompt_id: str
    text: str


@dataclass
class Batch:
    """A step's samples on this rank, G of a prompt in a row, and counts over all ranks."""

    prompts: list[Prompt]  # a prompt a sample
    window: range
    scores: Scores
    advantages: Tensor  # (S,), 0 where a sample's group is left out
    taught: list[int]  # samples in the loss
    diversity: float  # mean over groups
    equal: int = 0  # groups whose rewards are equal, on all ranks
    not_finite: int = 0  # groups with a reward that is no finite number, on all ranks
    culprits: tuple[str, ...] = ()


class Drawer:
    """Draws and judges the samples of each step."""

    def __init__(
        self,
        settings: GenerateRlSettings,
        family: Family,
        engine: Engine,
        autoencoder: nn.Module,
        shape: tuple[int, ...],
        levels: Sequence[float],
        conditioning: Path,
        negative: Conditioning,
        rewards: Rewards,
        store: Store,
        clock: Stopwatch,
        seed: int,
    ):
        self.settings, self.family, self.engine, self.autoencoder = settings, family, engine, autoencoder
        self.shape, self.levels, self.conditioning, self.negative = shape, levels, conditioning, negative
        self.rewards, self.store, self.clock, self.seed = rewards, store, clock, seed
        self.device = str(engine.device)

    def collect(self, step: int, chosen: Sequence[Prompt]) -> Batch:
        """Draw G samples of this rank's share of the step's prompts, judge them, and give them advantages."""
        settings, engine = self.settings, self.engine
        self.store.clear()
        mine = list(enumerate(chosen))[engine.rank :: engine.ranks]
        prompts = [prompt for _, prompt in mine for _ in range(settings.group_size)]
        names = [(place, sample) for place, _ in mine for sample in range(settings.group_size)]
        steps = window(settings.sampling, f"{self.seed} {step}")
        # Every rank makes as many forwards as the busiest: under ZeRO-3 the weights are gathered in each.
        most = -(-len(chosen) // engine.ranks) * settings.group_size
        forwards = -(-most // settings.sampling.batch)
        pixels = []
        for number in range(forwards):
            first = number * settings.sampling.batch
            part = list(range(first, min(first + settings.sampling.batch, len(prompts))))
            if part:
                pixels.append(self._draw(step, steps, part, prompts, names))
            else:
                self._draw(step, steps, [0], prompts, names, keep=False)
        return self._judged(prompts, np.concatenate(pixels), steps)

    def _draw(
        self,
        step: int,
        steps: range,
        part: list[int],
        prompts: list[Prompt],
        names: list[tuple[int, int]],
        keep: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Pixels (N, F, H, W, 3) of some of this rank's samples; what the update needs of them is stored."""
        settings = self.settings
        generators = [seeded(self.seed, step, *names[one]) for one in part]
        firsts = [
            seeded(self.seed, step, names[one][0], settings.group_size) if settings.sampling.shared_noise else own
            for one, own in zip(part, generators, strict=True)
        ]
        like = torch.empty(self.shape, device=self.device)
        noise = torch.stack([one_noise(like, one) for one in firsts])
        words = rows_of(self.conditioning, [prompts[one].prompt_id for one in part], self.device)
        velocity = Velocity(self.family, self.engine.model, self.negative, settings.sampling.guidance)
        with self.clock("rollout"):
            drawn = self.engine.look(
                lambda: draw(velocity, noise, words, self.levels, settings.sampling, steps, generators)
            )
        if keep:
            self.store.put(part, drawn)
        with self.clock("decode"), torch.no_grad():
            return as_pictures(self.family.decode(self.autoencoder, drawn.final))

    def _judged(self, prompts: list[Prompt], pixels: npt.NDArray[np.float32], steps: range) -> Batch:
        """The samples with their rewards and advantages."""
        size = self.settings.group_size
        with self.clock("reward"):
            scores = self.rewards(pixels, [prompt.text for prompt in prompts])
        rewards = torch.from_numpy(np.nan_to_num(scores.total)).float().view(-1, size)
        finite = torch.from_numpy(np.isfinite(scores.total)).view(-1, size).all(1)
        kept = finite[:, None].expand(-1, size)
        everyone = gathered((rewards, kept))
        algorithm = NORMALISED[self.settings.normalise](max_tokens=1)
        values, there = (torch.cat(parts) for parts in zip(*everyone, strict=True))
        advantages = algorithm.advantages(values, there)
        start = sum(len(one) for one, _ in everyone[: dist.get_rank()])
        own = advantages[start : start + len(rewards)].clamp(
            -self.settings.largest_advantage, self.settings.largest_advantage
        )
        counts = gathered((int((finite & ~varied(rewards, kept)).sum()), int((~finite).sum()), scores.culprits))
        return Batch(
            prompts=prompts,
            window=steps,
            scores=scores,
            advantages=own.reshape(-1),
            taught=[number for number in range(len(prompts)) if finite[number // size]],
            diversity=float(np.mean([spread(group).mean() for group in np.split(pixels, len(pixels) // size)])),
            equal=sum(equal for equal, _, _ in counts),
            not_finite=sum(count for _, count, _ in counts),
            culprits=tuple(sorted(set(chain.from_iterable(names for _, _, names in counts)))),
        )


def as_pictures(pixels: Tensor) -> npt.NDArray[np.float32]:
    """Pixels (N, F, 3, H, W) as rewards see them: (N, F, H, W, 3)."""
    return pixels.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()


def spread(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean distance (root mean square of all pixels' channels, 0..1) of each sample (N, ...) to the others.

    >>> spread(np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)).tolist()
    [1.0, 1.0]
    """
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    gaps = np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0) / flat.shape[1]
    return np.sqrt(gaps).sum(1) / max(len(pixels) - 1, 1)


def gathered(value: object) -> list:
    """Every rank's value, in the order of ranks."""
    values: list = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
