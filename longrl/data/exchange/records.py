"""What the formats share: what a format is, what a row must have, files of JSON records, options in text, tags.

A JSON format says how a row becomes a record and what of a row can be read back from one. `pack` compares the two:
every column that does not come back as it was goes into the record's extra field `longrl`, which loaders of these
formats pass over. So a round trip is exact by construction, a record holds nothing twice, and a file somebody else
wrote, which has no such field, is read by the same code.

A row here is a row of DATASET with three more fields: `video`, the file's path below the folder of videos, empty where
there is none; `images`, paths of image files where it shows these; and `position`, its place in the dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from longrl.errors import LongrlError

EXTRA = "longrl"
SPLITS = ("sft", "rl", "eval")
TEXTS = ("question", "answer", "reasoning", "conclusion", "question_id", "video_id", "category", "split", "teacher")

Row = dict[str, Any]
Record = dict[str, Any]
Found = Iterator[tuple[str, Row | str]]  # where it stands, and the row or what is wrong with it


class ExchangeError(LongrlError):
    """A file can't be read or written at all; the message names it and the remedy."""


class RowError(LongrlError):
    """One row can't be read; the message says what it lacks and what to do."""


@dataclass(frozen=True)
class Format:
    """`write` puts rows into a folder and returns its files; `read` finds the rows of a file or of a folder's files."""

    write: Callable[[Iterable[Row], Path], list[Path]]
    read: Callable[[Path], Found]


def json_format(ending: str, render: Callable[[Row], Record], parse: Callable[[Record], Row]) -> Format:
    """A format of files `sft`, `rl` and `eval` with this ending, .json or .jsonl; both endings are read."""
    return Format(partial(write_records, ending=ending, render=render, parse=parse), partial(read_records, parse=parse))


def pack(row: Row, render: Callable[[Row], Record], parse: Callable[[Record], Row]) -> Record:
    """The record of a row, with what `parse` does not bring back of it in the field `longrl`."""
    record = render(row)
    if row["conclusion"]:
        record[EXTRA] = {"conclusion": row["conclusion"]}
    found = parse(record)
    extra = {name: value for name, value in row.items() if found.get(name) != value}
    return record | {EXTRA: record.get(EXTRA, {}) | extra}


def unpack(record: Any, parse: Callable[[Record], Row]) -> Row:
    """The row of a record, as much of it as the record holds; raises `RowError`."""
    if not isinstance(record, dict):
        raise RowError("this is no object with fields; one question is one object")
    extra = record.get(EXTRA) or {}
    try:
        row = parse(record) | extra
    except KeyError as error:
        raise RowError(f"no field {error}; is this the right FORMAT?") from None
    except (TypeError, AttributeError) as error:
        raise RowError(f"a field is of another type than this format's ({error})") from None
    return check(row, ours=bool(extra))


def check(row: Row, ours: bool) -> Row:
    """The row as one of the dataset, whichever video it is of; raises `RowError` when it can't be one."""
    row = row | {"options": row.get("options") or [], "conclusion": row.get("conclusion") or ""}
    if wrong := [name for name in TEXTS if not isinstance(row.get(name) or "", str)]:
        raise RowError(f"its {wrong[0]} is no text: {str(row[wrong[0]])[:80]}")
    row = row | {"video": row.get("video") or "", "images": row.get("images") or []}
    if not isinstance(row["video"], str):
        raise RowError(f"its video is no path: {str(row['video'])[:80]}")
    if row["video"] and row["images"]:
        raise RowError("it shows a video and images; a question shows one video, or images, or nothing")
    for name, kind in (("options", str), ("evidence", int), ("images", str)):
        entries = row.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(entry, kind) for entry in entries):
            raise RowError(f"its {name} are no list of {'texts' if kind is str else 'numbers'}: {str(entries)[:80]}")
    options, answer = row["options"], row.get("answer")
    if not row.get("question"):
        raise RowError("the question is empty")
    if not answer:
        raise RowError("there is no answer; rows without a gold answer can't be trained on")
    if row["kind"] not in ("choice", "open"):
        raise RowError(f"its kind is {row['kind']!r}, not choice or open")
    if row["kind"] == "choice" and answer not in tuple(ascii_uppercase[: len(options)]):
        raise RowError(f"the answer is {answer!r} but there are {len(options)} options")
    if row["kind"] == "open" and not ours and re.fullmatch("[A-Z]", answer):
        raise RowError(f"the answer is the letter {answer} but there are no options")
    if not row.get("reasoning"):
        raise RowError("there is no reasoning; take rows with a chain of thought")
    return row


def write_records(
    rows: Iterable[Row],
    folder: Path,
    ending: str,
    render: Callable[[Row], Record],
    parse: Callable[[Record], Row],
) -> list[Path]:
    """One file a split, `sft.json` or `sft.jsonl` and so on by `ending`, row by row; splits without rows have none."""
    before, between, after = ("[\n", ",\n", "\n]\n") if ending == ".json" else ("", "\n", "\n")
    files: dict[str, Any] = {}
    try:
        for row in rows:
            new = row["split"] not in files
            if new:
                files[row["split"]] = (folder / f"{row['split']}{ending}").open("w", encoding="utf-8")
            text = json.dumps(pack(row, render, parse), ensure_ascii=False)
            files[row["split"]].write((before if new else between) + text)
        for file in files.values():
            file.write(after)
    finally:
        for file in files.values():
            file.close()
    return [folder / f"{split}{ending}" for split in SPLITS if split in files]


def read_records(path: Path, parse: Callable[[Record], Row]) -> Found:
    """The rows of a .json or .jsonl file or of all such files of a folder; a file's name may tell their split."""
    for file in files_of(path, (".json", ".jsonl")):
        for number, record in records(file):
            where = f"{file.name} row {number}"
            try:
                yield where, told_by_name(file) | unpack(record, parse)
            except RowError as error:
                yield where, str(error)


def records(file: Path) -> Iterator[tuple[int, Any]]:
    """The records of a file, numbered from 0; raises `ExchangeError` where it is no JSON."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExchangeError(f"{file} is no UTF-8 text: {error}; is this the right file?") from None
    if file.suffix == ".json":
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise ExchangeError(f"{file} is no JSON: {error}; a file of one object a line must end in .jsonl") from None
        if not isinstance(found, list):
            raise ExchangeError(f"{file} holds no list of questions; is this the right FORMAT?")
        yield from enumerate(found)
        return
    for number, line in enumerate(text.split("\n")):  # splitlines() would also part lines at U+2028 within a text
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ExchangeError(f"{file} line {number + 1} is no JSON: {error}; mend the line or take it out") from None


def files_of(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """The file, or a folder's files with these endings by name; raises `ExchangeError` when there is none."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in endings and file.is_file())
    if not files:
        raise ExchangeError(f"no {' or '.join(endings)} file at {path}; DATASET must name a file or a folder of them")
    return files


def told_by_name(file: Path) -> Row:
    """The split of a file's rows where its name tells it.

    >>> told_by_name(Path("eval.json")), told_by_name(Path("data/sft-00000-of-00001.parquet"))
    ({'split': 'eval'}, {'split': 'sft'})
    """
    found = re.fullmatch(rf"({'|'.join(SPLITS)})(-\d+-of-\d+)?", file.stem)
    return {"split": found[1]} if found else {}


def pictures(found: Any) -> list[str]:
    """Paths of images that are given as one or as a list.

    >>> pictures("a.png"), pictures(["a.png", "b.png"])
    (['a.png'], ['a.png', 'b.png'])
    """
    return [found] if isinstance(found, str) else list(found)


def problem(row: Row) -> str:
    """The question with its options below it, as others write them.

    >>> problem({"question": "Who comes first?", "options": ["red", "blue"]})
    'Who comes first?\\nA. red\\nB. blue'
    """
    return "\n".join([row["question"], *lettered(row["options"])])


def asked(text: str) -> Row:
    """Question, options and kind of a text that ends with the options, one a line.

    >>> asked("Who comes first?\\nA. red\\nB. blue")
    {'question': 'Who comes first?', 'options': ['red', 'blue'], 'kind': 'choice'}
    """
    lines = text.split("\n")
    for place in range(len(lines) - 2, 0, -1):
        options = unlettered(lines[place:])
        if options is not None:
            return {"question": "\n".join(lines[:place]), "options": options, "kind": "choice"}
    return {"question": text, "options": [], "kind": "open"}


def lettered(options: Iterable[str]) -> list[str]:
    """Options with their letters.

    >>> lettered(["red", "blue"])
    ['A. red', 'B. blue']
    """
    return [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]


def unlettered(lines: list[str]) -> list[str] | None:
    """The options of lines that begin with A, B, ... in order; None when they do not.

    >>> unlettered(["A. red", "B) blue"]), unlettered(["A. red", "C. blue"])
    (['red', 'blue'], None)
    """
    found = [re.fullmatch(r"\(?([A-Z])[.):] ?(.*)", line, re.DOTALL) for line in lines]
    letters = "".join(match[1] for match in found if match)
    return [match[2] for match in found if match] if letters == ascii_uppercase[: len(lines)] else None


def tagged(tag: str, text: str) -> str:
    """What stands between `<tag>` and `</tag>`; the whole text where there is no such pair.

    >>> tagged("answer", "So: <answer>B</answer>"), tagged("answer", "B")
    ('B', 'B')
    """
    found = re.search(f"<{tag}>(.*)</{tag}>", text, re.DOTALL)
    return found[1] if found else text


def thoughts(row: Row) -> str:
    """Reasoning and conclusion as one chain of thought."""
    return "\n".join(part for part in (row["reasoning"], row["conclusion"]) if part)


def thought(text: str, record: Record) -> Row:
    """Reasoning and conclusion of a chain of thought; only a record of ours tells the two apart."""
    conclusion = (record.get(EXTRA) or {}).get("conclusion", "")
    return {"reasoning": text.removesuffix(f"\n{conclusion}") if conclusion else text, "conclusion": conclusion}
