"""LongVideo-Reason's own format: one JSON object a line, options inside `problem`, the answer in tags.

    {"problem_id": 0, "problem": "Why …?\nA. …\nB. …", "data_type": "video", "problem_type": "goal",
     "reasoning": "…", "videos": "folder/name.mp4", "answer": "<answer>B</answer>"}

Unlike its public exporter the problem keeps its options and `problem_type` is the real category. `reasoning` is the
whole chain of thought, with the conclusion on its last line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from longrl.data.exchange.records import (
    Found,
    Record,
    Row,
    asked,
    lettered,
    read_records,
    tagged,
    thought,
    thoughts,
    write_records,
)


def render(row: Row) -> Record:
    return {
        "problem_id": row["position"],
        "problem": "\n".join([row["question"], *lettered(row["options"])]),
        "data_type": "video",
        "problem_type": row["category"],
        "reasoning": thoughts(row),
        "videos": row["video"],
        "answer": f"<answer>{row['answer']}</answer>",
    }


def parse(record: Record) -> Row:
    question, options = asked(record["problem"])
    answer = tagged("answer", record["answer"])
    return {
        "position": record["problem_id"],
        "category": record["problem_type"],
        "kind": "choice" if options else "open",
        "question": question,
        "options": options,
        "answer": record["answer"] if answer is None else answer,
        "video": record["videos"],
    } | thought(record["reasoning"], record)


def write(rows: Iterable[Row], folder: Path) -> list[Path]:
    """`sft.jsonl`, `rl.jsonl` and `eval.jsonl`."""
    return write_records(rows, folder, ".jsonl", render, parse)


def read(path: Path) -> Found:
    """The rows of a file, or of all .json and .jsonl files of a folder."""
    return read_records(path, parse)
