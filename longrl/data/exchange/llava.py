"""ShareGPT / LLaVA conversations: a JSON list of one-question conversations about a video, images, or neither.

    {"id": "…", "video": "folder/name.mp4", "conversations": [
        {"from": "human", "value": "<video>\nWho …?\nA. …\nB. …"},
        {"from": "gpt", "value": "<think>…</think><answer>B</answer>"}]}

Images are in "image", a path or a list of them, with an `<image>` each before the question. It has no place for the
category; other people's ids are not taken, since several rows may share one.
"""

from __future__ import annotations

from longrl.data.exchange.records import (
    Record,
    Row,
    RowError,
    asked,
    json_format,
    pictures,
    problem,
    tagged,
    thought,
    thoughts,
)

VIDEO, IMAGE = "<video>", "<image>"


def render(row: Row) -> Record:
    answer = f"<think>{thoughts(row)}</think><answer>{row['answer']}</answer>"
    images = row.get("images") or []
    shown = {"image": images} if images else {"video": row["video"]} if row["video"] else {}
    marks = f"{IMAGE}\n" * len(images) + f"{VIDEO}\n" * bool(row["video"])
    turns = [{"from": "human", "value": marks + problem(row)}, {"from": "gpt", "value": answer}]
    return {"id": row["question_id"], **shown, "conversations": turns}


def parse(record: Record) -> Row:
    turns = record["conversations"]
    if [turn["from"] for turn in turns] != ["human", "gpt"]:
        raise RowError(f"it has {len(turns)} turns; make each question a conversation of human and gpt")
    reasoning, _, rest = turns[1]["value"].rpartition("</think>")
    images = pictures(record.get("image", []))
    words = turns[0]["value"]
    for mark in [VIDEO] * ("video" in record) + [IMAGE] * len(images):
        words = words.replace(f"{mark}\n" if f"{mark}\n" in words else mark, "", 1)
    row = asked(words) | {"answer": tagged("answer", rest), "video": record.get("video", ""), "images": images}
    return row | thought(reasoning.removeprefix("<think>"), record)


FORMAT = json_format(".json", render, parse)
