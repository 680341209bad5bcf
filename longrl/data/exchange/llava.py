"""ShareGPT / LLaVA conversations: a JSON list of one-question conversations about a video.

    {"id": "…", "video": "folder/name.mp4", "conversations": [
        {"from": "human", "value": "<video>\nWho …?\nA. …\nB. …"},
        {"from": "gpt", "value": "<think>…</think><answer>B</answer>"}]}

It has no place for the category; other people's ids are not taken, since several rows may share one.
"""

from __future__ import annotations

from longrl.data.exchange.records import Record, Row, RowError, asked, json_format, problem, tagged, thought, thoughts

MARK = "<video>"


def render(row: Row) -> Record:
    answer = f"<think>{thoughts(row)}</think><answer>{row['answer']}</answer>"
    return {
        "id": row["question_id"],
        "video": row["video"],
        "conversations": [{"from": "human", "value": f"{MARK}\n{problem(row)}"}, {"from": "gpt", "value": answer}],
    }


def parse(record: Record) -> Row:
    turns = record["conversations"]
    if [turn["from"] for turn in turns] != ["human", "gpt"]:
        raise RowError(f"it has {len(turns)} turns; make each question a conversation of human and gpt")
    if "video" not in record:
        raise RowError("it is about no video; only questions about videos are taken")
    reasoning, _, rest = turns[1]["value"].rpartition("</think>")
    row = asked(turns[0]["value"].replace(MARK, "", 1).removeprefix("\n"))
    row |= {"answer": tagged("answer", rest), "video": record["video"]}
    return row | thought(reasoning.removeprefix("<think>"), record)


FORMAT = json_format(".json", render, parse)
