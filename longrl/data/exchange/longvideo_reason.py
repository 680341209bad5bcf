"""LongVideo-Reason's own format: one JSON object a line, options inside `problem`, the answer in tags.

    {"problem_id": 0, "problem": "Why …?\nA. …\nB. …", "data_type": "video", "problem_type": "goal",
     "reasoning": "…", "videos": "folder/name.mp4", "answer": "<answer>B</answer>"}

Unlike its public exporter the problem keeps its options and `problem_type` is the real category. `reasoning` is the
whole chain of thought, with the conclusion on its last line.
"""

from __future__ import annotations

from longrl.data.exchange.records import (
    ExchangeError,
    Record,
    Row,
    RowError,
    asked,
    json_format,
    problem,
    tagged,
    thought,
    thoughts,
)


def render(row: Row) -> Record:
    if not row["video"]:
        raise ExchangeError(f"question {row['question_id']} shows no video, and longvideo-reason has videos only")
    return {
        "problem_id": row["position"],
        "problem": problem(row),
        "data_type": "video",
        "problem_type": row["category"],
        "reasoning": thoughts(row),
        "videos": row["video"],
        "answer": f"<answer>{row['answer']}</answer>",
    }


def parse(record: Record) -> Row:
    if not isinstance(record["videos"], str):
        raise RowError("it names no video")
    row = asked(record["problem"]) | thought(record["reasoning"], record)
    return row | {
        "position": record["problem_id"],
        "category": record["problem_type"],
        "answer": tagged("answer", record["answer"]),
        "video": record["videos"],
    }


FORMAT = json_format(".jsonl", render, parse)
