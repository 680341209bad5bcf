"""Measurements of made scenes whose facts are known by construction."""

import numpy as np
import pytest
from longrl.teachers.measure import PARTS, measure
from longrl.teachers.scenery import busiest_part, busiest_quarter, describe, light_over

STEPS = 40
TIMES = [0.125 + 0.25 * step for step in range(STEPS)]


def measured(frames: np.ndarray) -> dict:
    return measure(frames, TIMES[: len(frames)], 0.0, 10.0).facts()


def textured(seed: int = 0) -> np.ndarray:
    """A still scene of 64 x 112 pixels in soft greys. float32 (64, 112, 3)."""
    coarse = np.random.default_rng(seed).uniform(90, 130, (8, 14, 1))
    return np.kron(coarse, np.ones((8, 8, 1))).repeat(3, 2).astype(np.float32)


def bar_moving(way: str) -> np.ndarray:
    """A white bar with a dark stripe crosses the scene in ten seconds. uint8 (40, 64, 112, 3)."""
    frames = np.stack([textured()] * STEPS)
    for step, frame in enumerate(frames):
        length = 112 if way in ("left", "right") else 64
        at = int((step + 0.5) / STEPS * (length - 16))
        at = at if way in ("right", "down") else length - 16 - at
        view = frame[20:44] if way in ("left", "right") else frame[:, 40:64].transpose(1, 0, 2)
        view[:, at : at + 12] = 250
        view[6:12, at + 4 : at + 8] = 20
    return frames.astype(np.uint8)


@pytest.mark.parametrize("way", ["left", "right", "up", "down"])
def test_a_moving_bar_goes_the_way_it_goes(way):
    facts = measured(bar_moving(way))
    assert facts["direction"] == way
    assert facts["directions"][way] > 90


def test_two_bars_going_apart_have_no_one_direction():
    frames = bar_moving("right")
    frames[:, :20] = bar_moving("left")[:, 22:42]
    assert measured(frames)["direction"] == "mixed"


def test_a_still_scene_does_not_move():
    facts = measured(np.stack([textured().astype(np.uint8)] * STEPS))
    assert (facts["motion"], facts["direction"], facts["cuts"]) == (0.0, "", ())
    assert "Nothing moves" in describe(facts)


def test_a_file_of_few_frames_a_second_still_shows_its_motion():
    facts = measured(bar_moving("right")[::4].repeat(4, axis=0))
    assert facts["motion"] > 1


@pytest.mark.parametrize("part", range(9))
def test_a_blinking_spot_is_found_where_it_is(part):
    frames = np.stack([textured().astype(np.uint8)] * STEPS)
    row, column = divmod(part, 3)
    frames[::2, row * 21 + 6 : row * 21 + 16, column * 37 + 12 : column * 37 + 26] = 255
    assert busiest_part(measured(frames)) == PARTS[part]


def test_motion_of_one_quarter_is_found_in_it():
    frames = np.stack([textured().astype(np.uint8)] * STEPS)
    frames[20:29] = bar_moving("right")[20:29]
    assert busiest_quarter(measured(frames)) == "third quarter"


def test_a_brightening_scene_gets_brighter_and_nothing_moves():
    frames = (textured() + np.linspace(-60, 90, STEPS)[:, None, None, None]).clip(0, 255).astype(np.uint8)
    facts = measured(frames)
    assert light_over(facts["brightness_quarters"]) == "gets brighter"
    assert facts["motion"] < 0.2
    assert "The light gets brighter" in describe(facts)


def test_cuts_are_found_at_their_times():
    colours = np.array([[200, 40, 40], [40, 160, 60], [60, 80, 210]], np.float32)
    shots = [(textured() * 0.3 + colour * 0.7).astype(np.uint8) for colour in colours]
    facts = measured(np.stack([shots[0]] * 10 + [shots[1]] * 18 + [shots[2]] * 12))
    assert facts["cuts"] == (pytest.approx(2.5), pytest.approx(7.0))
    assert facts["motion"] == 0.0  # a cut is no motion
    assert facts["doubtful_cuts"] == 0


def test_a_cut_at_the_very_start_shows_against_the_frame_before():
    dark, light = (np.full((64, 112, 3), level, np.uint8) for level in (20, 200))
    frames = np.stack([dark] + [light] * STEPS)
    facts = measure(frames, [9.875, *(10 + time for time in TIMES)], 10.0, 20.0).facts()
    assert facts["cuts"] == (10.0,)
    assert (facts["motion"], facts["brightness"]) == (0.0, pytest.approx(78.4, abs=0.1))


def test_a_slow_fade_is_no_cut():
    mix = np.linspace(0, 1, STEPS)[:, None, None, None]
    first, second = textured(0) * [0.9, 0.3, 0.3], textured(1) * [0.2, 0.4, 1.0]
    assert measured((first * (1 - mix) + second * mix).astype(np.uint8))["cuts"] == ()


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 30, 30), "red"), ((250, 140, 20), "orange"), ((110, 70, 35), "brown"), ((240, 225, 40), "yellow"),
        ((40, 150, 60), "green"), ((40, 210, 220), "cyan"), ((40, 80, 210), "blue"), ((130, 50, 190), "purple"),
        ((240, 110, 180), "pink"), ((10, 10, 12), "black"), ((250, 250, 248), "white"), ((128, 126, 130), "gray"),
    ],
)  # fmt: skip
def test_colours_have_the_names_people_give_them(rgb, name):
    frames = np.broadcast_to(np.array(rgb, np.uint8), (STEPS, 64, 112, 3))
    assert measured(frames)["colours"] == {name: 100.0}


def test_the_brighter_half_is_named():
    frames = np.stack([textured().astype(np.uint8)] * STEPS)
    frames[:, 32:] += 80
    facts = measured(frames)
    assert max(facts["halves"], key=facts["halves"].get) == "lower half"
    assert "brightest in the lower half" in describe(facts)
