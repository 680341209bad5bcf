"""Small questions with known answers, about text or images: what tiny students of these modalities learn from.

    text     red 4, blue 7, green 2, white 9, pink 1, black 5. Which colour stands beside 7?
    images   Which colour is the lower left square of the second picture?

They are written as any LLaVA dataset (`sft.json`, `rl.json`, `eval.json`, pictures beside them), so that they come in
as somebody else's would: `make pipeline DATASET=folder FORMAT=llava RECIPE=tiny-images`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longrl.errors import LongrlError

COLOURS = {
    "red": (220, 30, 30), "blue": (40, 70, 220), "green": (30, 160, 60), "white": (245, 245, 245),
    "black": (10, 10, 10), "yellow": (240, 210, 40), "purple": (140, 50, 170), "orange": (245, 140, 30),
}  # fmt: skip
PLACES = ("upper left", "upper right", "lower left", "lower right")
SIDE = 56  # pixels of an image: each of its squares is one token of a tiny student
SPLITS = {"sft": 0.6, "rl": 0.3, "eval": 0.1}


class PuzzleError(LongrlError):
    """The folder can't be written; the message says what to do."""


def write_puzzles(kind: str, folder: Path, count: int, seed: int = 0) -> Path:
    """Write `count` puzzles of a kind, `text` or `images`, into a folder that is not there yet, and return it."""
    if folder.exists():
        raise PuzzleError(f"{folder} is there already; name a new folder, or delete this one first")
    draw = random.Random(f"{seed} {kind}")
    make: Callable[[random.Random, Path, str], dict[str, Any]] = {"text": of_text, "images": of_images}[kind]
    folder.mkdir(parents=True)
    start = 0.0
    for split, share in SPLITS.items():
        numbers = range(round(count * start), round(count * (start + share)))
        records = [make(draw, folder, f"{split}-{number:05d}") for number in numbers]
        (folder / f"{split}.json").write_text(json.dumps(records, indent=1))
        start += share
    return folder


def of_text(draw: random.Random, folder: Path, name: str) -> dict[str, Any]:
    """Six colours beside digits; the one beside a digit is asked for."""
    colours, digits = draw.sample(list(COLOURS), 6), draw.sample(range(1, 10), 6)
    asked = draw.randrange(6)
    shown = ", ".join(f"{colour} {digit}" for colour, digit in zip(colours, digits, strict=True))
    question = f"{shown}. Which colour stands beside {digits[asked]}?"
    return record(draw, {}, question, f"{digits[asked]} stands beside {colours[asked]}.", colours[asked])


def of_images(draw: random.Random, folder: Path, name: str) -> dict[str, Any]:
    """One image of four squares, or two; the colour of one square is asked for."""
    images = [[draw.choice(list(COLOURS)) for _ in PLACES] for _ in range(draw.choice((1, 1, 2)))]
    paths = [paint(colours, folder / "pictures" / f"{name}-{number}.png") for number, colours in enumerate(images)]
    image, place = draw.randrange(len(images)), draw.randrange(4)
    where = f"the {PLACES[place]} square" + (f" of the {('first', 'second')[image]} picture" if len(images) > 1 else "")
    told = "; ".join(", ".join(colours) for colours in images)
    shown = {"image": [str(path.relative_to(folder)) for path in paths]}
    answer = images[image][place]
    return record(draw, shown, f"Which colour is {where}?", f"{told}. {where} is {answer}.", answer)


def paint(colours: list[str], path: Path) -> Path:
    """An image of four squares."""
    from PIL import Image

    image, half = Image.new("RGB", (SIDE, SIDE)), SIDE // 2
    for number, colour in enumerate(colours):
        left, top = number % 2 * half, number // 2 * half
        image.paste(COLOURS[colour], (left, top, left + half, top + half))
    path.parent.mkdir(exist_ok=True)
    image.save(path)
    return path


def record(draw: random.Random, shown: dict[str, Any], question: str, reasoning: str, answer: str) -> dict[str, Any]:
    """A LLaVA record with three wrong options beside the right one, in any order."""
    options = [answer, *draw.sample([colour for colour in COLOURS if colour != answer], 3)]
    draw.shuffle(options)
    letter = "ABCD"[options.index(answer)]
    conclusion = f"so {answer} ({letter})"
    words = "\n".join([question, *(f"{a}. {option}" for a, option in zip("ABCD", options, strict=True))])
    marks = "<image>\n" * len(shown.get("image", ()))
    response = f"<think>{reasoning}\n{conclusion}</think><answer>{letter}</answer>"
    turns = [{"from": "human", "value": marks + words}, {"from": "gpt", "value": response}]
    return shown | {"conversations": turns, "longrl": {"conclusion": conclusion}}
