"""Puzzles on text and images: their answers are what they show."""

import json
import re

import pytest
from PIL import Image

from longrl import cli
from longrl.data.puzzles import COLOURS, PLACES, PuzzleError, write_puzzles


def puzzles(folder):
    for file in sorted(folder.glob("*.json")):
        for record in json.loads(file.read_text()):
            human, gpt = (turn["value"] for turn in record["conversations"])
            question, *options = human.replace("<image>\n", "").split("\n")
            letter = re.search("<answer>(.)</answer>", gpt)[1]
            yield record, question, next(line[3:] for line in options if line[0] == letter)


def test_the_colour_beside_the_digit_is_the_answer(tmp_path):
    folder = write_puzzles("text", tmp_path / "text", 40)
    assert [len(json.loads((folder / f"{split}.json").read_text())) for split in ("sft", "rl", "eval")] == [24, 12, 4]
    for _, question, answer in puzzles(folder):
        pairs, asked = question.split(". Which colour stands beside ")
        assert dict(pair.split()[::-1] for pair in pairs.split(", "))[asked.rstrip("?")] == answer


def test_the_square_asked_for_has_the_colour_of_the_answer(tmp_path):
    folder = write_puzzles("images", tmp_path / "images", 40)
    several = 0
    for record, question, answer in puzzles(folder):
        images = record["image"]
        several += len(images) > 1
        place = next(number for number, name in enumerate(PLACES) if name in question)
        with Image.open(folder / images["second" in question]) as image:
            assert image.getpixel((place % 2 * 28 + 14, place // 2 * 28 + 14)) == COLOURS[answer]
    assert 0 < several < 40


def test_the_command_writes_them_and_leaves_what_is_there(tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["puzzles", "text", str(out), "--count", "10"]) == 0
    assert "RECIPE=tiny-text" in capsys.readouterr().out
    assert cli.main(["puzzles", "text", str(out), "--count", "10"]) == 1
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(PuzzleError):
        write_puzzles("images", out, 10)
