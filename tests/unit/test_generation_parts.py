"""Small parts of the generators' room: the world's prompts, the store of rollouts, diversity, the plan."""

import doctest
import importlib

import numpy as np
import pytest
import torch

from longrl.config import load_generation
from longrl.diffusion import plan as planning
from longrl.diffusion import world
from longrl.diffusion.families import FAMILIES
from longrl.diffusion.rollout import spread
from longrl.diffusion.sampler import Trajectory
from longrl.diffusion.store import Store
from longrl.mrsp.costs import Machine

EXAMPLES = ("sde", "schedule", "sampler", "rollout", "prompts", "world", "families.wan", "rewards", "rewards.rules")


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_docstrings_are_right(module):
    results = doctest.testmod(importlib.import_module(f"longrl.diffusion.{module}"))
    assert results.attempted
    assert results.failed == 0


@pytest.mark.parametrize("moving", [False, True])
def test_every_prompt_of_the_world_is_read_as_it_was_written(moving):
    assert all(world.read(scene.prompt) == scene for scene in world.scenes(moving))
    assert world.read("a photo of a cat") is None


def test_a_picture_shows_what_its_prompt_says():
    scene = world.Scene("large", "red", "square", "grey")
    (picture,) = world.render(scene, 1, 32, 32, np.random.default_rng(0))
    red = picture[..., 0] - picture[..., 1:].max(-1) > 0.3
    assert 0.1 < red.mean() < 0.45
    rows, columns = np.nonzero(red)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
    assert picture[~red].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("direction", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)]
)
def test_a_clip_moves_where_its_prompt_says(direction, axis, sign):
    clip = world.render(world.Scene("small", "blue", "circle", "dark", direction), 5, 32, 32, np.random.default_rng(1))
    centres = [np.argwhere(frame[..., 2] > 0.4).mean(0) for frame in clip]
    moved = np.diff([centre[axis] for centre in centres])
    assert (sign * moved > 1).all()
    assert np.abs(np.diff([centre[1 - axis] for centre in centres])).max() < 0.5


def test_what_does_not_fit_the_host_s_share_lies_on_disk_and_comes_back(tmp_path):
    states, logprobs = torch.randn(3, 2, 4, 4), torch.randn(3, 1)
    store = Store(tmp_path / "rollouts", limit=2 * (2 * 16 + 1) * 4)
    store.put([5, 6, 7], Trajectory(states[:, 0], states, logprobs))
    assert (store.host, store.disk) == (2 * 33 * 4, 33 * 4)
    assert len(list((tmp_path / "rollouts").iterdir())) == 1
    for row, number in enumerate([5, 6, 7]):
        back = store.get(number)
        assert torch.equal(back[0], states[row])
        assert torch.equal(back[1], logprobs[row])
    store.clear()
    assert not (tmp_path / "rollouts").exists()


def test_diversity_is_the_mean_distance_of_pairs():
    samples = np.random.default_rng(0).random((4, 1, 5, 5, 3), np.float32)
    pairs = [[np.sqrt(((one - other) ** 2).mean()) for other in samples] for one in samples]
    assert spread(samples) == pytest.approx(np.sum(pairs, 1) / 3, abs=1e-5)
    assert spread(np.repeat(samples[:1], 3, 0)) == pytest.approx(np.zeros(3), abs=1e-3)


@pytest.mark.parametrize(("recipe", "millions"), [("sd3.5-medium", (2200, 2300)), ("wan2.1-1.3b", (1400, 1440))])
def test_the_plan_counts_published_transformers(recipe, millions):
    one = planning.sizes(load_generation(recipe))
    assert millions[0] < one.parameters / 1e6 < millions[1]
    assert one.trained < one.parameters / 20
    words = planning.plan(load_generation(recipe), Machine(8, 80.0))
    assert "does not fit" not in words
    assert "does not fit" in planning.plan(load_generation(recipe, {"rl.train": "full"}), Machine(1, 16.0))


@pytest.mark.parametrize(("recipe", "family"), [("tiny-image", "sd3"), ("tiny-image", "flux"), ("tiny-video", "wan")])
def test_the_plan_s_adapter_is_the_one_that_is_trained(recipe, family, tmp_path):
    from longrl.diffusion.policy import Policy
    from longrl.diffusion.tiny import build_tiny

    config = load_generation(recipe, {"generator.family": family})
    build_tiny(tmp_path, config.generator, ["a prompt"], 0)
    kind = FAMILIES[family]
    transformer = kind.transformer(tmp_path, torch.float32, "cpu")
    one = planning.sizes(config)
    assert one.parameters == sum(p.numel() for p in transformer.parameters())
    assert one.tokens > kind.tokens(tmp_path, kind.latent_shape(tmp_path, config.generator))
    policy = Policy(kind, transformer, config.rl)
    assert one.trained == sum(p.numel() for p in policy.transformer.parameters() if p.requires_grad)


def test_a_plan_of_an_unknown_folder_says_what_would_be_needed():
    config = load_generation("sd3.5-medium", {"generator.path": "models/unheard-of"})
    with pytest.raises(planning.GeneratorPlanError, match=r"its name is none of.*transformer/config\.json"):
        planning.sizes(config)
