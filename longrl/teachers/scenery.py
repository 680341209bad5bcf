"""The language of measured scenery: captions of any real clip, and questions whose answers follow from the captions.

Everything a question rests on stands in the captions' facts, and is only asked where the measurements leave no doubt:
the right option leads every other by a margin a person would notice. What can't be asked is not asked; a dull video
gets few questions or none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, groupby, pairwise
from typing import Any

from longrl.teachers.base import CaptionedClip, QuestionDraft, clock
from longrl.teachers.measure import DIRECTIONS, PARTS

LETTERS = "ABCD"
LIGHTER = 6.0  # points of brightness that people notice side by side
STEADY = 3.0  # points of brightness that nobody notices
LIVELIER = 2.0  # factor by which the motion of one clip must exceed another's, and
MOVES = 1.0  # by which share of the picture, in per cent
STILL = 0.2  # share of the picture, in per cent, below which nothing moves
CONCENTRATED = 1.5  # factor by which the part with most motion must lead the next
WAYS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
COUNTS = ("no cut", "one cut", "two cuts", "three cuts", "four cuts", "five cuts", "six cuts")


def describe(facts: dict[str, Any]) -> str:
    """The caption of a clip whose `Scenery` facts these are."""
    half = leader(facts["halves"], LIGHTER)
    sentences = [f"Brightness {facts['brightness']:.0f}%" + (f", brightest in the {half}" if half else "")]
    names = [f"{name} {share:.0f}%" for name, share in list(facts["colours"].items())[:3]]
    if names:
        sentences.append("Colours: " + ", ".join(names))
    if (light := light_over(facts["brightness_quarters"])) in SINGLE_CLIP_LIGHT:
        sentences.append(f"The light {light}")
    sentences.append(_motion(facts))
    if facts["cuts"]:
        sentences.append(f"The picture cuts at {', '.join(clock(cut) for cut in facts['cuts'])}")
    return ". ".join(sentences) + "."


def _motion(facts: dict[str, Any]) -> str:
    if facts["motion"] < STILL:
        return "Nothing moves"
    words = f"{facts['motion']:.1f}% moves"
    if facts["direction"] in WAYS:
        words += f" {WAYS[facts['direction']]}"
    elif facts["direction"] == "mixed":
        words += " in several directions"
    if part := busiest_part(facts):
        words += f", mostly in the {part}"
    if quarter := busiest_quarter(facts):
        words += f", most in the {quarter}"
    return words


def leader(values: dict[str, float], margin: float) -> str | None:
    """The name whose value leads all others by `margin`, or None."""
    if len(values) < 2:
        return None
    first, second = sorted(values, key=lambda name: -values[name])[:2]
    return first if values[first] - values[second] >= margin else None


def busiest_part(facts: dict[str, Any]) -> str | None:
    """The ninth of the picture with clearly most of the motion, or None."""
    first, second = sorted(facts["parts"].values(), reverse=True)[:2]
    if facts["motion"] < STILL or first < 25 or first < CONCENTRATED * second:
        return None
    return max(facts["parts"], key=lambda name: facts["parts"][name])


def busiest_quarter(facts: dict[str, Any]) -> str | None:
    """The quarter of the clip's time with clearly most motion, or None."""
    values = facts["motion_quarters"]
    if len(values) < 4:
        return None
    first, second = sorted(values, reverse=True)[:2]
    if first < LIVELIER * second or first - second < MOVES:
        return None
    return QUARTERS[values.index(first)]


LIGHT = (
    "gets brighter",
    "gets darker",
    "stays the same",
    "gets brighter and then darker",
    "gets darker and then brighter",
)
SINGLE_CLIP_LIGHT = (*LIGHT[:2], *LIGHT[3:])


def light_over(levels: Sequence[float]) -> str | None:
    """How brightness develops over successive levels: one of `LIGHT`, or None where it is not clearly one of them."""
    if len(levels) < 2:
        return None
    first, last, high, low = levels[0], levels[-1], max(levels), min(levels)
    steps = [later - earlier for earlier, later in pairwise(levels)]
    if high - low <= STEADY:
        return LIGHT[2]
    if last - first >= 1.5 * LIGHTER and min(steps) > -STEADY:
        return LIGHT[0]
    if first - last >= 1.5 * LIGHTER and max(steps) < STEADY:
        return LIGHT[1]
    if high - max(first, last) >= 1.5 * LIGHTER and _turns_once(levels, levels.index(high)):
        return LIGHT[3]
    if min(first, last) - low >= 1.5 * LIGHTER and _turns_once([-level for level in levels], levels.index(low)):
        return LIGHT[4]
    return None


def _turns_once(levels: Sequence[float], at: int) -> bool:
    """Whether the levels rise up to `at` and fall after it, but for what nobody notices."""
    rises = all(b - a > -STEADY for a, b in pairwise(levels[: at + 1]))
    return rises and all(b - a < STEADY for a, b in pairwise(levels[at:]))


def questions(clips: Sequence[CaptionedClip], rng: random.Random) -> list[QuestionDraft]:
    """Every kind of question that can be asked of a video's scenery captions, a few of each kind, in random order."""
    found: list[QuestionDraft] = []
    for kind in (_when_brightest, _when_liveliest, _which_quarter, _which_way, _when_this_way):
        found += kind(clips, rng)
    for kind in (_where_moves, _where_bright, _light, _cuts, _order):
        found += kind(clips, rng)
    rng.shuffle(found)
    return found


def _draft(
    rng: random.Random,
    category: str,
    question: str,
    right: str,
    wrong: Iterable[str],
    cited: Sequence[tuple[CaptionedClip, str]],
    conclusion: str,
) -> Iterator[QuestionDraft]:
    """One question with three of the wrong options, or nothing when there are fewer than three."""
    others = sorted(set(wrong) - {right})
    if len(others) < 3:
        return
    options = [right, *rng.sample(others, 3)]
    rng.shuffle(options)
    letter = LETTERS[options.index(right)]
    reasoning = " ".join(f"{clip.span}: {words}." for clip, words in cited)
    evidence = tuple(sorted(clip.index for clip, _ in cited))
    yield QuestionDraft(
        category, question, tuple(options), letter, reasoning, f"{conclusion}, so {right} ({letter})", evidence
    )


def _fours(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[list[CaptionedClip]]:
    """Some choices of four clips, each in the order of time."""
    if len(clips) <= 6:
        choices = [list(four) for four in combinations(clips, 4)]
        rng.shuffle(choices)
        yield from choices
        return
    for _ in range(40):
        yield sorted(rng.sample(list(clips), 4), key=lambda clip: clip.index)


def _when(
    clips: Sequence[CaptionedClip],
    rng: random.Random,
    question: str,
    key: Callable[[CaptionedClip], float],
    leads: Callable[[float, float], bool],
    leading: str,
    words: Callable[[CaptionedClip], str],
) -> Iterator[QuestionDraft]:
    """Which of four clips has the highest `key`, for up to two choices of four in which one clearly leads."""
    asked = 0
    for four in _fours(clips, rng):
        ranked = sorted(four, key=key, reverse=True)
        if asked < 2 and leads(key(ranked[0]), key(ranked[1])):
            asked += 1
            right, *wrong = (clip.span for clip in ranked)
            cited = [(clip, words(clip)) for clip in four]
            yield from _draft(rng, "temporal", question, right, wrong, cited, f"{right} {leading}")


def _when_brightest(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    def level(clip: CaptionedClip) -> float:
        return clip.facts["brightness"]

    def words(clip: CaptionedClip) -> str:
        return f"brightness {level(clip):.0f}%"

    def clear(first: float, second: float) -> bool:
        return first - second >= LIGHTER

    yield from _when(clips, rng, "When is the picture brightest?", level, clear, "is brightest", words)
    yield from _when(clips, rng, "When is the picture darkest?", lambda clip: -level(clip), clear, "is darkest", words)


def _when_liveliest(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    def amount(clip: CaptionedClip) -> float:
        return clip.facts["motion"]

    def words(clip: CaptionedClip) -> str:
        return f"{amount(clip):.1f}% moves"

    def clear(first: float, second: float) -> bool:
        return first >= LIVELIER * second and first - second >= MOVES

    yield from _when(clips, rng, "When is there most motion?", amount, clear, "has most motion", words)


def _which_quarter(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    for clip in clips:
        if quarter := busiest_quarter(clip.facts):
            question = f"In which part of {clip.span} is there most motion?"
            cited = [(clip, f"most moves in the {quarter}")]
            yield from _draft(rng, "temporal", question, quarter, QUARTERS, cited, f"the {quarter} has most motion")


def _which_way(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    """Where what moves is heading."""
    for clip in clips:
        way = clip.facts["direction"]
        if way in DIRECTIONS and clip.facts["motion"] >= STILL:
            question = f"Which way is what moves heading in {clip.span}?"
            cited = [(clip, f"{clip.facts['motion']:.1f}% moves {WAYS[way]}")]
            yield from _draft(rng, "goal", question, WAYS[way], WAYS.values(), cited, f"it heads {WAYS[way]}")


def _when_this_way(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    """In which of four clips everything heads one way, where it does so in no other of them."""
    for four in _fours(clips, rng):
        ways = [clip.facts["direction"] for clip in four]
        once = [way for way in DIRECTIONS if ways.count(way) == 1]
        if once and all(ways):
            way = rng.choice(once)
            right = four[ways.index(way)].span
            cited = [(clip, f"what moves heads {WAYS.get(clip.facts['direction'], 'several ways')}") for clip in four]
            question = f"When does what moves head {WAYS[way]}?"
            yield from _draft(
                rng, "goal", question, right, (clip.span for clip in four), cited, f"{WAYS[way]} in {right}"
            )
            return


def _where_moves(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    for clip in clips:
        part = busiest_part(clip.facts)
        if part is None:
            continue
        shares = clip.facts["parts"]
        wrong = [name for name in PARTS if shares[name] * CONCENTRATED <= shares[part]]
        question = f"In which part of the picture is most of the motion in {clip.span}?"
        cited = [(clip, f"most moves in the {part}")]
        yield from _draft(rng, "spatial", question, part, wrong, cited, f"most motion is in the {part}")


def _where_bright(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    for clip in clips:
        if half := leader(clip.facts["halves"], LIGHTER):
            question = f"Which half of the picture is brightest in {clip.span}?"
            cited = [(clip, f"brightest in the {half}")]
            yield from _draft(rng, "spatial", question, half, clip.facts["halves"], cited, f"the {half} is brightest")


def _light(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    """How the light develops over the whole video."""
    if len(clips) == 1:
        light = light_over(clips[0].facts["brightness_quarters"])
        cited = [(clips[0], f"the light {light}")]
    else:
        light = light_over([clip.facts["brightness"] for clip in clips])
        if light == LIGHT[2] and any(_range(clip.facts["brightness_quarters"]) > LIGHTER for clip in clips):
            return  # the same from clip to clip, but not within one
        cited = [(clip, f"brightness {clip.facts['brightness']:.0f}%") for clip in clips]
    if light:
        wrong = [other for other in LIGHT if other != light]
        yield from _draft(
            rng, "plot", "How does the light develop?", f"it {light}", (f"it {w}" for w in wrong), cited, f"it {light}"
        )


def _range(levels: Sequence[float]) -> float:
    return max(levels) - min(levels) if levels else 0.0


def _cuts(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    total = sum(len(clip.facts["cuts"]) for clip in clips)
    if total >= len(COUNTS) or any(clip.facts["doubtful_cuts"] for clip in clips):
        return
    cited = [(clip, COUNTS[len(clip.facts["cuts"])]) for clip in clips]
    near = [COUNTS[number] for number in range(max(0, total - 3), min(len(COUNTS), total + 4))]
    yield from _draft(
        rng, "plot", "How often does the picture cut?", COUNTS[total], near, cited, f"in all {COUNTS[total]}"
    )


def _order(clips: Sequence[CaptionedClip], rng: random.Random) -> Iterator[QuestionDraft]:
    """In which order the picture's main colours come, where at least three clearly follow each other."""
    main = [leader(clip.facts["colours"] | {"": 0.0}, 2 * LIGHTER) for clip in clips]
    if any(colour is None for colour in main):
        return
    runs = [str(colour) for colour, _ in groupby(main)]
    if not 3 <= len(runs) <= 6 or len(set(runs)) != len(runs):
        return
    wrong: set[str] = set()
    for _ in range(50):
        wrong.add(" then ".join(rng.sample(runs, len(runs))))
    cited = [(clip, f"mostly {colour}") for clip, colour in zip(clips, main, strict=True)]
    right = " then ".join(runs)
    yield from _draft(
        rng, "plot", "Which colours is the picture, in order?", right, wrong, cited, f"the order is {right}"
    )
