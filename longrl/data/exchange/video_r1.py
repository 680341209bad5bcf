"""Video-R1's format (Video-R1-COT-165k, Video-R1-260k): a JSON list, options beside the problem, thoughts in `process`.

    {"problem_id": 2, "problem": "What …?", "data_type": "video", "problem_type": "multiple choice",
     "options": ["A. …", "B. …"], "process": "<think>…</think>", "solution": "<answer>A</answer>",
     "path": "./folder/name.mp4", "data_source": "longrl"}

Open questions are of the type "free-form". It has no place for the category.
"""

from __future__ import annotations

from longrl.data.exchange.records import (
    Record,
    Row,
    RowError,
    json_format,
    lettered,
    tagged,
    thought,
    thoughts,
    unlettered,
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
    return {
        "position": record["problem_id"],
        "kind": "choice" if record["problem_type"] == "multiple choice" else "open",
        "question": record["problem"],
        "options": unlettered(record["options"]) or [],
        "answer": tagged("answer", record["solution"]),
        "video": record["path"].removeprefix("./"),
    } | thought(tagged("think", record.get("process") or ""), record)


FORMAT = json_format(".json", render, parse)
