"""Curation at scale: 52,000 and 1,000,000 questions about 18,000 videos, with exact counts.

    make bench NAME=curation
    make bench NAME=curation ARGS='--rows 52000'

52,000 is the first release of LongVideo-Reason, 18,000 its number of videos. The questions are made: a third asks by
template (as the `measured` teacher does), a third is varied prose, a third is open. Into them go defects of every rule
that needs no server, each at a known row, among them near-duplicates within and across videos and questions and videos
of a benchmark file; the number that each rule rejects is asserted, not measured. Each size runs in a process of its own
on two threads, from Parquet to Parquet; what is measured is the curation alone (not the making of its input): seconds,
and the peak of the process's memory. The bars are 60 s and 600 s, and 2 GiB; the ratio of the two peaks says how flat
memory is.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.harness import Bar, Report, peak_mib
from longrl.config import Categories, CurateSettings
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VIDEOS, CLIPS = 18_000, 12
SIZES = {52_000: 60.0, 1_000_000: 600.0}  # rows: seconds allowed
PEAK_MIB = 2048.0
PART = 50_000
EVERY = 100  # the last row of this many has a defect, of each kind in turn
COPIED = EVERY - 3  # the place among them of the choice that a defective copy is made of
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "purple", "cyan")
PLACES = ("tower", "house", "lake", "tree", "bridge", "gate", "mill", "well")
VERBS = ("opens", "carries", "hides", "paints", "measures", "repairs", "watches", "follows", "lifts", "cleans")
NOUNS = tuple(
    f"{first}{last}"
    for first in ("lan", "cup", "bar", "sto", "win", "mar", "pil")
    for last in ("tern", "board", "rel", "ve", "dow")
)

# A defect's rule, and what it changes in a choice that is otherwise good.
DEFECTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("schema", {"answer": "none of these"}),
    ("answer_among_options", {"answer": "K"}),
    ("options_distinct", {"options": ["a red door", "A red door!", "a gate", "a mill"], "answer": "A"}),
    ("evidence_exists", {"evidence": [CLIPS + 3]}),
    ("reasoning_present", {"reasoning": "It is."}),
    ("mentions_captions", {"question": "What does the third caption speak of?"}),
    ("mentions_letters", {"reasoning": "He stays to the end, so option C is the one."}),
    (
        "reasoning_leads_to_answer",
        {"options": ["a mill", "a gate", "a well", "a lake"], "answer": "A", "conclusion": "So it is a well."},
    ),
    ("benchmark_question", {}),
    ("benchmark_video", {}),
    ("duplicate_question", {}),
    ("near_identical", {}),
    ("near_duplicate", {}),
    ("near_duplicate", {}),
)
BENCHMARK = (
    "In the closing minutes of the documentary what does the old keeper of the lighthouse hand over to the two visitors"
)


def run(options: list[str]) -> Report:
    """Curate each size in its own process; assert the counts, report seconds and peaks."""
    parser = argparse.ArgumentParser(prog="benchmarks.curation")
    parser.add_argument("--rows", type=int, nargs="*", default=list(SIZES), choices=list(SIZES))
    sizes = parser.parse_args(options).rows
    report = Report(settings={"videos": VIDEOS, "curate": settings("").model_dump(mode="json")})
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.curation"]
            subprocess.run([*command, "make", folder, str(rows)], check=True)
            done = subprocess.run(
                [*command, "curate", folder, str(rows)], check=True, stdout=subprocess.PIPE, text=True
            )
        report.rows.append({"questions": rows} | json.loads(done.stdout.splitlines()[-1]))
        measured = report.rows[-1]
        report.bars.append(Bar(f"seconds_{rows}", measured["seconds"], SIZES[rows], lower_is_better=True))
        report.bars.append(Bar(f"peak_mib_{rows}", measured["peak_mib"], PEAK_MIB, lower_is_better=True))
    if len(report.rows) == len(SIZES):
        peaks = [row["peak_mib"] for row in report.rows]
        report.bars.append(Bar("peak_ratio", peaks[1] / peaks[0], 4.0, lower_is_better=True))
    return report


def settings(folder: str) -> CurateSettings:
    return CurateSettings(benchmarks=(f"{folder}/benchmark.jsonl",))


def make(folder: str, rows: int) -> None:
    """Write the captions, the questions and the benchmark file."""
    bench = [{"videoID": f"benchfilm{n:04d}", "question": f"{BENCHMARK}?"} for n in range(20)]
    (Path(folder) / "benchmark.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bench))
    warehouse = Warehouse(f"{folder}/warehouse")

    def captions(draft: Draft) -> None:
        for start in range(0, VIDEOS, 3_000):
            clips = [clip(video, index) for video in range(start, start + 3_000) for index in range(CLIPS)]
            draft.write(pl.DataFrame(clips, schema=schemas.empty("caption").schema))

    def questions(draft: Draft) -> None:
        part: list[dict[str, Any]] = []
        for row in written(rows):
            part.append(row)
            if len(part) == PART:
                draft.write(pl.DataFrame(part, schema=schemas.empty("reason").schema))
                part.clear()
        if part:
            draft.write(pl.DataFrame(part, schema=schemas.empty("reason").schema))

    films = schemas.empty("ingest").schema
    row = {
        "container": "mp4",
        "codec": "h264",
        "duration": 120.0,
        "fps": 25.0,
        "frames": 3000,
        "bytes": 1,
        "rotation": 0,
    }
    row |= {"width": 64, "height": 64, "variable_rate": False, "audio": False}
    table = [row | {"video_id": name(n), "path": f"/films/{stem(n)}.mp4"} for n in range(VIDEOS)]
    made = {
        "caption": captions,
        "reason": questions,
        "ingest": lambda draft: draft.write(pl.DataFrame(table, schema=films)),
    }
    refs = {stage: vars(warehouse.produce(stage, 1, {}, {}, build)) for stage, build in made.items()}
    (Path(folder) / "refs.json").write_text(json.dumps(refs))


def name(video: int) -> str:
    return f"{video:064x}"


def stem(video: int) -> str:
    """The file's name; the last twenty videos are a benchmark's."""
    return f"benchfilm{video - VIDEOS + 20:04d}" if video >= VIDEOS - 20 else f"holiday-{video:06d}"


def clip(video: int, index: int) -> dict[str, Any]:
    span = {"start": 10.0 * index, "end": 10.0 * index + 10.0}
    told = {"caption": f"Somebody comes to place {index} of film {video}.", "facts": "{}", "teacher": "made"}
    return {"clip_id": f"{video}-{index}", "video_id": name(video), "index": index} | span | told


def written(rows: int) -> Iterator[dict[str, Any]]:
    """The questions in order; every `EVERY`th has a defect, and some of these are copies of a good choice."""
    draw = random.Random(0)
    copied: dict[str, Any] = {}
    for number in range(rows):
        block, place = divmod(number, EVERY)
        if place < EVERY - 1:
            row = good(number, draw)
            copied = row if place == COPIED else copied
            yield row
            continue
        kind = block % len(DEFECTS)
        rule, changes = DEFECTS[kind]
        yield good_choice(number, draw) | changes if changes else planted(rule, kind, number, copied, draw)


def planted(rule: str, kind: int, number: int, copied: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A row with a defect that lies in what it has in common with a benchmark or with the `copied` question."""
    row = good_choice(number, draw)
    if rule == "benchmark_question":
        return row | {"question": f"{BENCHMARK} {draw.choice(COLOURS)}?"}
    if rule == "benchmark_video":
        return row | {"video_id": name(VIDEOS - 1 - number % 20)}
    same = copied | {"question_id": row["question_id"]}
    other = {"reasoning": row["reasoning"], "conclusion": ""}
    if rule == "duplicate_question":
        letter = "ABCD".index(same["answer"])
        return same | other | {"options": same["options"][::-1], "answer": "DCBA"[letter]}
    if rule == "near_identical":
        gold = same["options"]["ABCD".index(same["answer"])]
        return (
            same
            | other
            | {"question": f"In the video, {same['question']}", "options": ["x", gold, "y", "z"], "answer": "B"}
        )
    video = {"video_id": row["video_id"]} if kind == len(DEFECTS) - 1 else {"question": f"Say, {same['question']}"}
    return same | video | {"reasoning": f"{same['reasoning']} Surely."}


def good(number: int, draw: random.Random) -> dict[str, Any]:
    """A question that every rule lets through: template, prose and open in turn, prose where it is to be copied."""
    kind = 1 if number % EVERY == COPIED else number % 3
    return (good_template, good_choice, good_open)[kind](number, draw)


def base(number: int) -> dict[str, Any]:
    """What all have; the benchmark's videos are asked about by planted rows only."""
    known = {"question_id": f"q{number:08d}", "video_id": name(number % (VIDEOS - 20)), "teacher": "made"}
    return known | {
        "category": Categories[number % 4],
        "kind": "choice",
        "evidence": [number % CLIPS],
        "conclusion": "",
    }


def good_template(number: int, draw: random.Random) -> dict[str, Any]:
    """As the measured teacher asks, with a number: the same question asked of a video twice would be a duplicate."""
    acts = [
        f"clip {n + 1}: {draw.choice(COLOURS)} visits the {draw.choice(PLACES)} at {draw.randrange(10**6)}."
        for n in range(6)
    ]
    options = draw.sample(PLACES, 4)
    answer = draw.randrange(4)
    return base(number) | {
        "question": f"Which place does {draw.choice(COLOURS)} visit on round {number}?",
        "options": options,
        "answer": "ABCD"[answer],
        "reasoning": " ".join(acts),
        "conclusion": f"so {options[answer]} ({'ABCD'[answer]})",
    }


def prose(number: int, draw: random.Random) -> str:
    acts = [
        f"At {n}:{draw.randrange(10, 60)} the {draw.choice(COLOURS)} {draw.choice(NOUNS)} near {draw.choice(PLACES)} "
        f"{draw.randrange(10**6)} {draw.choice(VERBS)} another {draw.choice(NOUNS)}."
        for n in range(8)
    ]
    return " ".join(acts)


def good_choice(number: int, draw: random.Random) -> dict[str, Any]:
    thing, act = draw.choice(NOUNS), draw.choice(VERBS)
    return base(number) | {
        "question": f"Why is it that somebody {act} the {thing} before visitor {number} arrives?",
        "options": [f"to {draw.choice(VERBS)} item {number * 7 + n}" for n in range(4)],
        "answer": draw.choice("ABCD"),
        "reasoning": prose(number, draw),
    }


def good_open(number: int, draw: random.Random) -> dict[str, Any]:
    thing = f"{draw.choice(COLOURS)} {draw.choice(NOUNS)}"
    return base(number) | {
        "kind": "open",
        "question": f"Which thing is left behind after visitor {number} has gone?",
        "options": [],
        "answer": f"the {thing}",
        "reasoning": f"{prose(number, draw)} The {thing} is left.",
    }


def expected(rows: int) -> Counter[str]:
    """How many questions each rule is to reject."""
    return Counter(DEFECTS[place % len(DEFECTS)][0] for place in range(rows // EVERY))


def measure(folder: str, rows: int) -> None:
    """Curate and print the figures as one line of JSON."""
    from longrl.data.curate import curate

    refs = {stage: ArtifactRef(**ref) for stage, ref in json.loads((Path(folder) / "refs.json").read_text()).items()}
    before, started, cpu = peak_mib(), time.perf_counter(), time.process_time()
    made = curate(
        settings(folder), refs["caption"], refs["reason"], Warehouse(f"{folder}/warehouse"), 0, refs["ingest"]
    )
    figures = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    figures |= {"peak_mib": peak_mib(), "import_mib": before, "rows": made.rows, "rejects": made.rejects}
    rejected = {rule: count for rule, count in made.facts()["rejected"].items() if count}
    assert rejected == dict(expected(rows)), (rejected, expected(rows))
    assert made.rows + made.rejects == rows
    key = made.facts()["key"]
    assert all(max(letters.values()) - min(letters.values()) <= 1 for letters in key.values()), key
    print(json.dumps(figures | {"parts": len(made.parts())}))


if __name__ == "__main__":
    {"make": make, "curate": measure}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
