"""What the JSON formats share: files of records, options in text, tags, and the fields a format has no place for.

A format says how a row becomes a record and what of a row can be read back from one. `pack` compares the two: every
column that does not come back as it was goes into the record's extra field `longrl`, which loaders of these formats
pass over. So a round trip is exact by construction, a record holds nothing twice, and a file somebody else wrote, which
has no such field, is read by the same code.

A row here is a row of DATASET with two more fields: `video`, the file's path below the folder of videos, and
`position`, its place in the dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from longrl.errors import LongrlError

EXTRA = "longrl"
SPLITS = ("sft", "rl", "eval")

Row = dict[str, Any]
Record = dict[str, Any]
Found = Iterator[tuple[str, Row | str]]  # where it stands, and the row or what is wrong with it


class ExchangeError(LongrlError):
    """A file can't be read or written at all; the message names it and the remedy."""


class RowError(LongrlError):
    """One row can't be read; the message says what it lacks and what to do."""


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
    """Raise `RowError` when the row can't be a row of the dataset, whichever video it is of."""
    options, answer = row.get("options") or [], row.get("answer")
    if not row.get("question"):
        raise RowError("the question is empty")
    if not answer:
        raise RowError("there is no answer; rows without a gold answer can't be trained on")
    if row["kind"] == "choice" and answer not in ascii_uppercase[: len(options)]:
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
    """The rows of a .json or .jsonl file or of all such files of a folder; a file's stem may name its split."""
    for file in files_of(path, (".json", ".jsonl")):
        for number, record in records(file):
            where = f"{file.name} row {number}"
            try:
                row = unpack(record, parse)
            except RowError as error:
                yield where, str(error)
            else:
                yield where, ({"split": file.stem} if file.stem in SPLITS else {}) | row


def records(file: Path) -> Iterator[tuple[int, Any]]:
    """The records of a file, numbered from 0; raises `ExchangeError` where it is no JSON."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise ExchangeError(f"{file} is no JSON: {error}; a file of one object a line must end in .jsonl") from None
        if not isinstance(found, list):
            raise ExchangeError(f"{file} holds no list of questions; is this the right FORMAT?")
        yield from enumerate(found)
        return
    for number, line in enumerate(text.splitlines()):
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


def lettered(options: Iterable[str]) -> list[str]:
    """Options as others write them.

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


def asked(text: str) -> tuple[str, list[str]]:
    """Question and options of a text that ends with the options, one a line.

    >>> asked("Who comes first?\\nA. red\\nB. blue")
    ('Who comes first?', ['red', 'blue'])
    """
    lines = text.split("\n")
    for place in range(len(lines) - 2, 0, -1):
        options = unlettered(lines[place:])
        if options is not None:
            return "\n".join(lines[:place]), options
    return text, []


def tagged(tag: str, text: str) -> str | None:
    """What stands between `<tag>` and `</tag>`; None where there is no such pair."""
    found = re.search(f"<{tag}>(.*)</{tag}>", text, re.DOTALL)
    return found[1] if found else None


def thoughts(row: Row) -> str:
    """Reasoning and conclusion as one chain of thought."""
    return "\n".join(part for part in (row["reasoning"], row["conclusion"]) if part)


def thought(text: str, record: Record) -> Row:
    """Reasoning and conclusion of a chain of thought; only a record of ours tells the two apart."""
    conclusion = record.get(EXTRA, {}).get("conclusion", "")
    return {"reasoning": text.removesuffix(f"\n{conclusion}") if conclusion else text, "conclusion": conclusion}
