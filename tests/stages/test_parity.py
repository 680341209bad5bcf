"""The parity gate at its default tolerances: a real vLLM engine, and defects planted on either side of it."""

import copy
import dataclasses

import pytest
import torch

from longrl.config import RlSettings
from longrl.models.base import Student
from longrl.rollout import parity
from tests.rollouts import mixed, request

SETTINGS = RlSettings()


@pytest.fixture(scope="module")
def student(loaded_student):
    return loaded_student


@pytest.fixture(scope="module")
def requests(student):
    return [request(student, text, grid, spacing, film) for text, grid, spacing, film in VIDEOS]


VIDEOS = [
    ("what moves", (12, 4, 4), 1.7, 1),
    ("who moves to the left", (32, 4, 4), 2.0, 2),
    ("who moves to the right", (6, 6, 2), 9.3, 3),
]


@pytest.fixture(scope="module")
def rollouts(engine, requests):
    return engine.generate(requests)


def gate(student, requests, rollouts, **options):
    names = [f"q{i}" for i in range(len(requests))]
    plans = [f"plan{i}" for i in range(len(names))]
    tolerances = SETTINGS.parity_tolerance, SETTINGS.parity_mean_tolerance
    return parity.check(student, names, plans, requests, rollouts, *tolerances, **options)


def test_the_honest_trainer_passes_and_agrees_on_every_token(engine, student):
    everything = mixed(student)
    gap = gate(student, everything, engine.generate(everything))
    assert gap.tokens > 100
    assert gap.largest < 1e-3
    assert gap.mean < 1e-5


def test_logprobs_are_of_the_sampling_distribution(engine, student):
    everything = mixed(student, temperature=0.6)
    assert gate(student, everything, engine.generate(everything)).largest < 1e-3


def flat(good, prompt):
    return torch.arange(good.shape[1]).expand(3, -1)


def as_transformers(good, prompt):
    """5.19 goes on after a video as if it lasted no time."""
    end = len(prompt.context)
    good[:, end:] += len(prompt.head) + max(prompt.media[0].grid[1:]) // 2 - good[0, end]
    return good


def shifted(good, prompt):
    good[:, len(prompt.context) :] += 1
    return good


def restarted(good, prompt):
    end = len(prompt.expanded)
    good[:, end:] += 1 - good[0, end]
    return good


@pytest.mark.parametrize("wrong", [flat, as_transformers, shifted, restarted])
def test_wrong_positions_in_the_trainer_stop_the_run(student, requests, rollouts, wrong, monkeypatch):
    right = Student.positions
    monkeypatch.setattr(Student, "positions", lambda s, prompt, extra=0: wrong(right(s, prompt, extra).clone(), prompt))
    with pytest.raises(
        parity.ParityError, match=r"question q\d, sample \d: token \d+ .* Frame plan plan\d; video of grid \("
    ):
        gate(student, requests, rollouts)


def of(one):
    """The video of a request."""
    return one.prompt.media[0]


def showing(one, **changes):
    """The same request, its prompt built for a video that differs in this."""
    (slot,) = one.prompt.slots
    medium = dataclasses.replace(of(one), **changes)
    slot = dataclasses.replace(slot, media=(medium,), expanded=slot.compact * medium.tokens)
    return dataclasses.replace(one, prompt=dataclasses.replace(one.prompt, opening=(one.prompt.head, slot)))


def spacing(factor):
    return lambda one: showing(one, second_per_grid=factor * of(one).second_per_grid)


def every_second_frame(one):
    t, h, w = of(one).grid
    frames = one.embeds[0].view(t, -1, one.embeds[0].shape[-1])[::2].flatten(0, 1)
    half = showing(one, grid=(t // 2, h, w), tokens=len(frames), second_per_grid=2 * of(one).second_per_grid)
    return dataclasses.replace(half, embeds=(frames,))


def another_grid(one):
    """As many tokens, differently arranged."""
    t, h, w = of(one).grid
    return showing(one, grid=(t // 2, h, 2 * w))


def another_video(one):
    return dataclasses.replace(one, embeds=(one.embeds[0].flip(0),))


def cooler(one):
    return dataclasses.replace(one, temperature=0.9)


DEFECTS = {
    "spacing of 1 s": lambda one: spacing(1.0 / of(one).second_per_grid)(one),
    "twice the spacing": spacing(2.0),
    "half the frames": every_second_frame,
    "another grid": another_grid,
    "another video": another_video,
    "another temperature": cooler,
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_in_the_trainer_stops_the_run(student, requests, rollouts, defect):
    with pytest.raises(parity.ParityError, match=r"Frame plan plan\d; video of grid \("):
        gate(student, [DEFECTS[defect](one) for one in requests], rollouts)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_in_the_engines_request_stops_the_run(engine, student, requests, defect):
    planted = engine.generate([DEFECTS[defect](one) for one in requests])
    with pytest.raises(parity.ParityError, match=r"Frame plan plan\d; video of grid \("):
        gate(student, requests, planted)


def test_both_grids_and_spacings_are_named(student, requests, rollouts):
    prompts = [spacing(2.0)(one).prompt for one in requests]
    words = r"3\.4 s per temporal patch in the trainer, .* 1\.7 s per temporal patch in vLLM"
    with pytest.raises(parity.ParityError, match=words):
        gate(student, requests[:1], rollouts[:1], prompts=prompts[:1])


def test_weights_one_update_old_stop_the_run(student, requests, rollouts):
    trained = copy.deepcopy(student)
    trained.prepare()  # a copied module keeps the methods bound to the original
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained.model.model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter).sign() * 5e-5)  # Adam's first step at this rate
    with pytest.raises(parity.ParityError, match="Compare weights"):
        gate(trained, requests, rollouts)


def moved(group, by, tokens):
    """The group as if the engine's logprobs of the first `tokens` tokens were higher."""
    return [dataclasses.replace(r, logprobs=[p + by * (i < tokens) for i, p in enumerate(r.logprobs)]) for r in group]


def test_a_gap_on_one_token_and_a_small_gap_on_all_are_both_too_much(student, requests, rollouts):
    one = [moved(rollouts[0], 2 * SETTINGS.parity_tolerance, 1), *rollouts[1:]]
    with pytest.raises(parity.ParityError, match=r"question q0, sample \d: token 0 "):
        gate(student, requests, one)
    everywhere = [moved(group, 2 * parity.MEAN_TOLERANCE["float32"], 1000) for group in rollouts]
    with pytest.raises(parity.ParityError, match=r"on average over \d+ tokens"):
        gate(student, requests, everywhere)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no rollout token"):
        parity.measure([], [], [])
