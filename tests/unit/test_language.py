"""The language of stories: every answer follows from its own chain of thought by reading alone."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from longrl.teachers.language import CATEGORIES, Event, clip_caption, questions, video_caption

CORNERS, PLACES = ("northwest", "northeast", "southwest", "southeast"), ("tree", "house", "lake", "tower")
ACTORS = ("red", "yellow", "white", "black", "purple", "cyan")


def events_of(seed: int, count: int = 4) -> list[Event]:
    rng = random.Random(seed)
    layout = dict(zip(CORNERS, rng.sample(PLACES, 4), strict=True))
    corners = [rng.choice(CORNERS) for _ in range(count)]
    actors = rng.sample(ACTORS, count)
    return [
        Event(i + 1, 10.0 * i, 10.0 * i + 5, actor, layout[corner], corner)
        for i, (actor, corner) in enumerate(zip(actors, corners, strict=True))
    ]


def asked(seed: int, count: int = 4):
    events = events_of(seed, count)
    return events, questions(events, CORNERS, PLACES, random.Random(seed))


def read_answer(question) -> str:
    """The right option, found by an independent reader from the chain of thought's text alone."""
    visits = re.findall(r"clip (\d): (\w+) visits the (\w+) (\w+)\.", question.reasoning)
    actors = [actor for _, actor, _, _ in visits]
    named = next((actor for actor in actors if f" {actor}" in question.text), None)
    if question.kind == "ordinal":
        return actors[["first", "second", "third", "fourth", "fifth", "sixth"].index(question.text.split()[2][:-1])]
    if question.kind in ("after", "before"):
        return actors[actors.index(named) + (1 if question.kind == "after" else -1)]
    if question.kind == "order":
        return " ".join(actors)
    _, _, corner, place = visits[actors.index(named)]
    return place if question.kind == "goal" else corner


@pytest.mark.parametrize("count", [2, 4, 6])
def test_every_answer_follows_from_the_reasoning(count):
    for seed in range(100):
        for question in asked(seed, count)[1]:
            right = question.options["ABCD".index(question.answer)]
            assert right == read_answer(question)
            assert question.conclusion.endswith(f", so {right} ({question.answer})")


def test_the_reasoning_is_the_caption_of_each_clip_in_order():
    events, all_questions = asked(1)
    assert {question.reasoning for question in all_questions} == {video_caption(events)}
    assert all(f"clip {event.clip}: {clip_caption(event)}" in video_caption(events) for event in events)


def test_options_are_four_different_ones():
    for seed in range(50):
        for question in asked(seed)[1]:
            assert len(set(question.options)) == 4


def test_all_categories_are_asked_and_at_least_six_questions_of_a_story():
    _, all_questions = asked(2)
    assert {question.category for question in all_questions} == set(CATEGORIES) - {"sound"}  # a silent story
    assert len(all_questions) >= 6


def test_no_letter_is_favoured():
    letters = Counter(question.answer for seed in range(200) for question in asked(seed)[1])
    assert all(0.23 < letters[letter] / letters.total() < 0.27 for letter in "ABCD")


def test_conclusions_go_only_from_a_word_to_one_that_stood_after_it_before():
    """The property the language is made for: "after" and "before" end in a step that the list has already taken."""
    for question in asked(4)[1]:
        if question.kind in ("after", "before"):
            listed, step, _ = question.conclusion.split(", ")
            assert step in listed


def test_the_same_seed_asks_the_same_questions():
    assert asked(9)[1] == asked(9)[1]


def test_fewer_than_two_events_ask_nothing_about_order():
    kinds = {question.kind for question in asked(0, 1)[1]}
    assert kinds == {"ordinal", "goal", "corner"}
