"""Video-R1's format (Video-R1-COT-165k, Video-R1-260k): a JSON list, options beside the problem, thoughts in `process`.

    {"problem_id": 2, "problem": "What …?", "data_type": "video", "problem_type": "multiple choice",
     "options": ["A. …", "B. …"], "process": "<think>…</think>", "solution": "<answer>A</answer>",
     "path": "./folder/name.mp4", "data_source": "longrl"}

Open questions are of the type "free-form". The type of data may be image (a path, or a list of them) or text.
It has no place for the category.
"""

from __future__ import annotations

from longrl.data.exchange.records import (
    Record,
    Row,
    RowError,
    json_format,
    lettered,
    pictures,
    tagged,
    thought,
    thoughts,
    unlettered,
)


def render(row: Row) -> Record:
    images = row.get("images") or []
    kind = "image" if images else "video" if row["video"] else "text"
    shown = images if images else f"./{row['video']}" if row["video"] else ""
    return {
        "problem_id": row["position"],
        "problem": row["question"],
        "data_type": kind,
        "problem_type": "multiple choice" if row["kind"] == "choice" else "free-form",
        "options": lettered(row["options"]),
        "process": f"<think>{thoughts(row)}</think>",
        "solution": f"<answer>{row['answer']}</answer>",
        "path": shown,
        "data_source": "longrl",
    }


def parse(record: Record) -> Row:
    kind = record["data_type"]
    if kind not in ("video", "image", "text"):
        raise RowError(f"it asks about {kind!r}; questions about video, image and text are taken")
    shown = [path.removeprefix("./") for path in pictures(record["path"])] if kind != "text" else []
    return {
        "position": record["problem_id"],
        "kind": "choice" if record["problem_type"] == "multiple choice" else "open",
        "question": record["problem"],
        "options": unlettered(record["options"]) or [],
        "answer": tagged("answer", record["solution"]),
        "video": shown[0] if kind == "video" else "",
        "images": shown if kind == "image" else [],
    } | thought(tagged("think", record.get("process") or ""), record)


FORMAT = json_format(".json", render, parse)
