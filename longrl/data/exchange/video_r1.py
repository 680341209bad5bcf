"""Video-R1's format (Video-R1-COT-165k, Video-R1-260k): a JSON list, options beside the problem, thoughts in `process`.

    {"problem_id": 2, "problem": "What …?", "data_type": "video", "problem_type": "multiple choice",
     "options": ["A. …", "B. …"], "process": "<think>…</think>", "solution": "<answer>A</answer>",
     "path": "./folder/name.mp4", "data_source": "longrl"}

Open questions are of the type "free-form". It has no place for the category.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from longrl.data.exchange.records import (
    Found,
    Record,
    Row,
    RowError,
    lettered,
    read_records,
    tagged,
    thought,
    thoughts,
    unlettered,
    write_records,
)


def render(row: Row) -> Record:
    return {
        "problem_id": row["position"],
        "problem": row["question"],
        "data_type": "video",
        "problem_type": "multiple choice" if row["kind"] == "choice" else "free-form",
        "options": lettered(row["options"]),
        "process": f"<think>{thoughts(row)}</think>",
        "solution": f"<answer>{row['answer']}</answer>",
        "path": f"./{row['video']}",
        "data_source": "longrl",
    }


def parse(record: Record) -> Row:
    if record["data_type"] != "video":
        raise RowError(f"it asks about an {record['data_type']}; only questions about videos are taken")
    process, solution = record.get("process") or "", record["solution"]
    thoughts_there, answer = tagged("think", process), tagged("answer", solution)
    return {
        "position": record["problem_id"],
        "kind": "choice" if record["problem_type"] == "multiple choice" else "open",
        "question": record["problem"],
        "options": unlettered(record["options"]) or [],
        "answer": solution if answer is None else answer,
        "video": record["path"].removeprefix("./"),
    } | thought(process if thoughts_there is None else thoughts_there, record)


def write(rows: Iterable[Row], folder: Path) -> list[Path]:
    """`sft.json`, `rl.json` and `eval.json`."""
    return write_records(rows, folder, ".json", render, parse)


def read(path: Path) -> Found:
    """The rows of a file, or of all .json and .jsonl files of a folder."""
    return read_records(path, parse)
