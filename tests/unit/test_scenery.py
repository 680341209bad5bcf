"""Questions about real videos: asked only where the captions leave no doubt, and then with one right option."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longrl.teachers.base import CaptionedClip
from longrl.teachers.measure import HALVES, PARTS
from longrl.teachers.scenery import describe, light_over, questions


def facts(**changes) -> dict:
    plain = {
        "kind": "scenery", "brightness": 50.0, "brightness_quarters": [50.0] * 4, "halves": dict.fromkeys(HALVES, 50.0),
        "colours": {"gray": 100.0}, "motion": 0.0, "motion_quarters": [0.0] * 4, "parts": dict.fromkeys(PARTS, 0.0),
        "directions": {}, "direction": "", "cuts": [], "doubtful_cuts": 0,
    }  # fmt: skip
    return plain | changes


def clips(*all_facts: dict) -> list[CaptionedClip]:
    return [
        CaptionedClip(f"c{index}", "v", index, index * 10.0, index * 10.0 + 10, describe(each), each)
        for index, each in enumerate(all_facts)
    ]


def asked(video: list[CaptionedClip], seed: int = 0) -> dict[str, str]:
    """Question → text of the option marked as right."""
    drafts = questions(video, random.Random(seed))
    return {draft.question: draft.options["ABCD".index(draft.answer)] for draft in drafts}


def test_the_brightest_clip_of_four():
    video = clips(*(facts(brightness=level) for level in (30.0, 80.0, 40.0, 52.0)))
    assert asked(video)["When is the picture brightest?"] == "0:10-0:20"
    assert asked(video)["When is the picture darkest?"] == "0:00-0:10"


def test_a_near_tie_is_not_asked():
    video = clips(*(facts(brightness=level) for level in (30.0, 80.0, 78.0, 31.0)))
    assert not {"When is the picture brightest?", "When is the picture darkest?"} & set(asked(video))


def test_the_liveliest_clip_must_lead_clearly():
    question = "When is there most motion?"
    assert asked(clips(*(facts(motion=amount) for amount in (1.0, 2.0, 9.0, 3.0))))[question] == "0:20-0:30"
    assert question not in asked(clips(*(facts(motion=amount) for amount in (1.0, 2.0, 5.0, 3.0))))


def test_which_way_is_asked_of_clips_that_go_one_way():
    found = asked(clips(facts(motion=3.0, direction="left"), facts(motion=3.0, direction="mixed")))
    assert found["Which way is what moves heading in 0:00-0:10?"] == "to the left"
    assert "Which way is what moves heading in 0:10-0:20?" not in found


def test_where_it_moves_leaves_out_parts_that_move_nearly_as_much():
    parts = dict.fromkeys(PARTS, 0.0) | {"top": 45.0, "left": 29.0, "right": 26.0}
    video = clips(facts(motion=3.0, parts=parts))
    for seed in range(20):
        assert asked(video, seed)["In which part of the picture is most of the motion in 0:00-0:10?"] == "top"


def test_doubtful_cuts_are_not_counted():
    question = "How often does the picture cut?"
    assert asked(clips(facts(cuts=[3.0]), facts(cuts=[12.0, 15.0])))[question] == "three cuts"
    assert question not in asked(clips(facts(cuts=[3.0], doubtful_cuts=1)))


def test_the_order_of_main_colours():
    video = clips(*(facts(colours={name: 70.0, "gray": 30.0}) for name in ("green", "green", "blue", "red")))
    assert asked(video)["Which colours is the picture, in order?"] == "green then blue then red"


def test_a_dull_video_gets_few_questions_and_none_invented():
    assert set(asked(clips(facts()))) == {"How does the light develop?", "How often does the picture cut?"}


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([50, 51, 50, 49], "stays the same"),
        ([30, 40, 50, 60], "gets brighter"),
        ([60, 50, 49, 30], "gets darker"),
        ([30, 50, 70, 40], "gets brighter and then darker"),
        ([70, 40, 30, 60], "gets darker and then brighter"),
        ([50, 55, 50, 56], None),
        ([30, 60, 40, 70], None),
        ([50], None),
    ],
)
def test_how_light_develops(levels, words):
    assert light_over(levels) == words


measurements = st.builds(
    lambda light, quarters, motion, way, halves, parts, colours, cuts: facts(
        brightness=light, brightness_quarters=quarters, motion=motion, direction=way if motion else "",
        halves=dict(zip(HALVES, halves, strict=True)), parts=dict(zip(PARTS, parts, strict=True)),
        motion_quarters=[motion * q / 50 for q in quarters], colours=dict.fromkeys(colours, 50.0), cuts=cuts,
    ),
    st.floats(0, 100), st.lists(st.floats(0, 100), min_size=4, max_size=4), st.floats(0, 40),
    st.sampled_from(["left", "right", "up", "down", "mixed", ""]),
    st.lists(st.floats(0, 100), min_size=4, max_size=4), st.lists(st.floats(0, 100), min_size=9, max_size=9),
    st.lists(st.sampled_from(["gray", "red", "blue", "green"]), unique=True, max_size=2),
    st.lists(st.floats(0, 10), max_size=2),
)  # fmt: skip


@given(st.lists(measurements, min_size=1, max_size=8), st.integers(0, 5))
def test_every_question_has_four_different_options_and_cites_its_clips(all_facts, seed):
    video = clips(*all_facts)
    for draft in questions(video, random.Random(seed)):
        assert len(set(draft.options)) == 4
        assert draft.answer in "ABCD"
        assert draft.options["ABCD".index(draft.answer)] in draft.conclusion
        assert draft.evidence
        assert all(video[index].span in draft.reasoning for index in draft.evidence)
