"""The language of stories: captions, questions and chains of thought, as pure functions of what happened.

It is English, and written so that a small model can learn to reason in it. Each hop of a chain of thought is a copy:
the conclusion opens with a word of the question, goes on with what the evidence says next to it, and ends in the very
words of an option and its letter. What comes next to what is first listed in order, and backwards where the question
is who acts *before* blue, so that the next word is always one that was read after this word before.

    clip 1: red visits the northwest tree. clip 2: blue visits the southeast lake.            the reasoning
    1: red 2: blue, red 2: blue, so blue (C)                                                  the conclusion
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CATEGORIES = ("temporal", "goal", "spatial", "plot", "sound")
LETTERS = "ABCD"
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Event:
    """One visit: `actor` goes to `place`, which stands in `corner`, and is seen from `start` to `end` (seconds).

    `clip` is the number of the clip it happens in, counted from 1; `sound` what the actor is heard to do, if anything.
    """

    clip: int
    start: float
    end: float
    actor: str
    place: str
    corner: str
    sound: str = ""


@dataclass(frozen=True)
class Question:
    """A question with its options and reasoned answer; `answer` is a letter, `kind` the template within `category`."""

    category: str
    kind: str
    text: str
    options: tuple[str, ...]
    answer: str
    reasoning: str
    conclusion: str


def clip_caption(event: Event) -> str:
    """What happens in one clip.

    >>> clip_caption(Event(1, 2.0, 7.0, "red", "tree", "northwest"))
    'red visits the northwest tree.'
    >>> clip_caption(Event(1, 2.0, 7.0, "red", "tree", "northwest", "beeps"))
    'red beeps and visits the northwest tree.'
    """
    sound = f"{event.sound} and " if event.sound else ""
    return f"{event.actor} {sound}visits the {event.corner} {event.place}."


def video_caption(events: Sequence[Event]) -> str:
    """What happens in a whole video, clip by clip: also the evidence that every chain of thought begins with.

    >>> video_caption([Event(1, 2.0, 7.0, "red", "tree", "northwest")])
    'clip 1: red visits the northwest tree.'
    """
    return " ".join(f"clip {event.clip}: {clip_caption(event)}" for event in events)


def questions(
    events: Sequence[Event],
    corners: Sequence[str],
    places: Sequence[str],
    rng: random.Random,
    sounds: Sequence[str] = (),
) -> list[Question]:
    """Every question that can be asked of these events, options shuffled by `rng`; at most four options each.

    The events are in the order of time, each with another actor. `corners`, `places` and `sounds` are all there are:
    the wrong options of questions about them. Wrong actors are those of the other events, so that knowing who appears
    is not enough.
    """
    return [
        *_temporal(events, rng),
        *(_goal(event, events, places, rng) for event in events),
        *(_spatial(event, events, corners, rng) for event in events),
        *([_plot(events, rng)] if len(events) > 1 else []),
        *_sound(events, sounds, rng),
    ]


def _temporal(events: Sequence[Event], rng: random.Random) -> list[Question]:
    actors = [event.actor for event in events]

    def ask(kind: str, text: str, right: Event, steps: str) -> Question:
        return _question("temporal", kind, text, right.actor, actors, events, steps, rng)

    asked = [
        ask("ordinal", f"Who acts {ordinal}?", event, f"clip {event.clip}: {event.actor}")
        for ordinal, event in zip(ORDINALS, events, strict=False)
    ]
    for one, two in pairwise(events):
        forwards, backwards = _order(events), _order(events[::-1])
        steps = f"{forwards}, {one.actor} {two.clip}: {two.actor}"
        asked.append(ask("after", f"Who acts right after {one.actor}?", two, steps))
        steps = f"{backwards}, {two.actor} {one.clip}: {one.actor}"
        asked.append(ask("before", f"Who acts right before {two.actor}?", one, steps))
    return asked


def _goal(event: Event, events: Sequence[Event], places: Sequence[str], rng: random.Random) -> Question:
    text = f"Which place does {event.actor} visit?"
    return _question("goal", "goal", text, event.place, places, events, clip_caption(event)[:-1], rng)


def _spatial(event: Event, events: Sequence[Event], corners: Sequence[str], rng: random.Random) -> Question:
    text = f"In which corner does {event.actor} stop?"
    return _question("spatial", "corner", text, event.corner, corners, events, clip_caption(event)[:-1], rng)


def _plot(events: Sequence[Event], rng: random.Random) -> Question:
    """The order of the whole story. The wrong orders are its rotations: the same agents, and most neighbours right."""
    actors = [event.actor for event in events]
    orders = [" ".join(actors[k:] + actors[:k]) for k in range(len(actors))]
    return _question("plot", "order", "Who acts in which order?", orders[0], orders, events, _order(events), rng)


def _sound(events: Sequence[Event], sounds: Sequence[str], rng: random.Random) -> list[Question]:
    """What is heard of whom, who is the one that is heard so, and all sounds in their order."""
    heard = [event.sound for event in events]
    listing = " ".join(f"{event.actor} {event.sound}" for event in events)
    asked = []
    for event in events:
        if event.sound:
            text, steps = f"What does {event.actor} do while it walks?", f"{event.actor} {event.sound}"
            asked.append(_question("sound", "what", text, event.sound, sounds, events, steps, rng))
    if not heard or not all(heard):
        return asked
    for event in events:
        if heard.count(event.sound) == 1:
            steps = " ".join(f"{each.sound} {each.actor}" for each in events) + f", {event.sound} {event.actor}"
            actors = [each.actor for each in events]
            asked.append(_question("sound", "who", f"Who {event.sound}?", event.actor, actors, events, steps, rng))
    right, orders = " ".join(heard), {" ".join(rng.choices(sounds, k=len(heard))) for _ in range(20)}
    text = "What is heard in which order?"
    asked.append(_question("sound", "order", text, right, sorted(orders), events, listing, rng))
    return asked


def _order(events: Sequence[Event]) -> str:
    """The clips' numbers with their actors, e.g. `1: red 2: blue`."""
    return " ".join(f"{event.clip}: {event.actor}" for event in events)


def _question(
    category: str, kind: str, text: str, right: str, pool: Sequence[str], events: Sequence[Event], steps: str,
    rng: random.Random,
) -> Question:  # fmt: skip
    wrong = [option for option in pool if option != right]
    options = [right, *rng.sample(wrong, min(3, len(wrong)))]
    rng.shuffle(options)
    answer = LETTERS[options.index(right)]
    conclusion = f"{steps}, so {right} ({answer})"
    return Question(category, kind, text, tuple(options), answer, video_caption(events), conclusion)
