"""ShareGPT / LLaVA conversations: a JSON list of one-question conversations about a video.

    {"id": "…", "video": "folder/name.mp4", "conversations": [
        {"from": "human", "value": "<video>\nWho …?\nA. …\nB. …"},
        {"from": "gpt", "value": "<think>…</think><answer>B</answer>"}]}

It has no place for the category; other people's ids are not taken, since several rows may share one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from longrl.data.exchange.records import (
    Found,
    Record,
    Row,
    RowError,
    asked,
    lettered,
    read_records,
    tagged,
    thought,
    thoughts,
    write_records,
)

MARK = "<video>"


def render(row: Row) -> Record:
    problem = "\n".join([MARK, row["question"], *lettered(row["options"])])
    answer = f"<think>{thoughts(row)}</think><answer>{row['answer']}</answer>"
    return {
        "id": row["question_id"],
        "video": row["video"],
        "conversations": [{"from": "human", "value": problem}, {"from": "gpt", "value": answer}],
    }


def parse(record: Record) -> Row:
    turns = record["conversations"]
    if [turn["from"] for turn in turns] != ["human", "gpt"]:
        raise RowError(f"it has {len(turns)} turns; make each question a conversation of human and gpt")
    if "video" not in record:
        raise RowError("it is about no video; only questions about videos are taken")
    question, options = asked(turns[0]["value"].replace(MARK, "", 1).removeprefix("\n"))
    said = turns[1]["value"]
    reasoning, _, rest = said.rpartition("</think>")
    answer = tagged("answer", rest)
    return {
        "kind": "choice" if options else "open",
        "question": question,
        "options": options,
        "answer": rest if answer is None else answer,
        "video": record["video"],
    } | thought(reasoning.removeprefix("<think>"), record)


def write(rows: Iterable[Row], folder: Path) -> list[Path]:
    """`sft.json`, `rl.json` and `eval.json`."""
    return write_records(rows, folder, ".json", render, parse)


def read(path: Path) -> Found:
    """The rows of a file, or of all .json and .jsonl files of a folder."""
    return read_records(path, parse)
