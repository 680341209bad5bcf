"""The checks before curation, with a real HTTP server that answers, guesses, misbehaves or is away."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest

from longrl.config import TeacherServer, VerifySettings
from longrl.data.verify import NothingVerified, verify
from longrl.teachers.base import TeacherUnavailable
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.curation import captions, open_question, question, rejected, run, store
from tests.stages.misbehaving_server import Handler, MisbehavingServer, answer, text_of


@pytest.fixture
def server():
    with MisbehavingServer(model) as http:
        yield http


def model(handler: Handler) -> None:
    """Knows that the box is red and nothing else (then the first option), and judges every question about v1 bad."""
    text = text_of(handler.body)
    if "Answer given:" in text:
        good = "of v1" not in text
        answer(json.dumps({"reason": "So it is.", "answerable": True, "right": good}))(handler)
        return
    known = re.search(r"red box \(([A-D])\)", text)
    letter = known[1] if known and "Who comes in 0?" in text else "A"
    said = "a red box" if "Who comes in 5?" in text else letter
    answer(json.dumps({"reasoning": "It is always so.", "answer": said}))(handler)


def check(
    warehouse: Warehouse, server: MisbehavingServer, rows: list[dict], concurrency: int = 2, **settings
) -> ArtifactRef:
    where = TeacherServer(base_url=server.url, model="m", retries=0, concurrency=concurrency)
    told, asked = captions(warehouse, rows), store(warehouse, "reason", rows)
    return verify(VerifySettings(server=where, **settings), told, asked, warehouse, 0)


def test_what_is_answered_without_the_video_is_dropped(warehouse, server):
    rows = [question(0, answer="A"), question(1), question(2), open_question(5, answer="the red box")]
    made = check(warehouse, server, rows, blind_samples=4)
    table = made.table()
    assert table.height == 16
    right = dict(table.group_by("question_id").agg(pl.col("correct").sum()).iter_rows())
    assert right["v0-q0"] == right["v0-q5"] == 4
    assert max(right["v0-q1"], right["v0-q2"]) < 4  # a liking for "A" finds nothing: the options change places
    assert made.facts()["calls"]["requests"] == 16
    prompts = {text_of(body) for body in server.requests}
    assert not any("seen 1 times" in prompt for prompt in prompts), "a blind model reads no captions"
    curated = run(warehouse, rows, verdicts=made)
    assert rejected(curated) == [("v0-q0", "answered_blind"), ("v0-q5", "answered_blind")]
    assert set(curated.rejected()["reason"]) == {"answered without the video 4 of 4 times"}


def test_the_threshold_is_curations(warehouse, server):
    rows = [question(0, answer="A"), question(1)]
    made = check(warehouse, server, rows, blind_samples=4)
    right = made.table().filter(pl.col("question_id") == "v0-q1")["correct"].sum()
    low = run(warehouse, rows, verdicts=made, blind_threshold=max(right, 1) / 4)
    assert ("v0-q1", "answered_blind") in rejected(low) or right == 0


def test_the_judge_reads_the_captions_and_gives_its_reason(warehouse, server):
    rows = [question(0), question(1, "v1", question="Who comes in 1 of v1?")]
    made = check(warehouse, server, rows, judge=True)
    assert made.table().select("question_id", "check", "answer", "correct", "reason").rows() == [
        ("v0-q0", "judge", "right", True, "So it is."),
        ("v1-q1", "judge", "wrong", False, "So it is."),
    ]
    assert all("0:10-0:20: A box is seen 1 times." in text_of(body) for body in server.requests)
    curated = run(warehouse, rows, verdicts=made)
    assert curated.rejected().rows() == [("v1-q1", "judged_bad", "wrong: So it is.")]


@pytest.mark.parametrize(
    "broken",
    [answer(""), answer("red"), answer('{"answer": "E"}'), answer("{", finish="length"), answer(None, refusal="no")],
)
def test_a_check_that_fails_lets_nothing_through(warehouse, server, broken):
    server.replies = [broken]
    rows = [question(0), question(1)]
    made = check(warehouse, server, rows, judge=True)
    errors = made.table().filter(pl.col("error").is_not_null())
    assert errors.height == 1
    assert errors["correct"].null_count() == 1
    curated = run(warehouse, rows, verdicts=made)
    assert [rule for _, rule in rejected(curated)] == ["unverified"]
    assert errors["error"][0] in curated.rejected()["reason"][0]


def test_a_question_without_a_verdict_is_not_let_through(warehouse, server):
    made = check(warehouse, server, [question(0)], judge=True)
    assert rejected(run(warehouse, [question(0), question(1)], verdicts=made)) == [("v0-q1", "unverified")]


def test_a_lost_server_keeps_what_was_answered(warehouse, server):
    rows = [question(n) for n in range(6)]
    server.usual, good = answer("", finish="stop"), server.usual
    server.replies = [good, good]

    def away(handler: Handler) -> None:
        handler.send(401, {"error": {"message": "no", "type": "x", "code": None}})

    server.usual = away
    with pytest.raises(TeacherUnavailable, match="401"):
        check(warehouse, server, rows, concurrency=1, judge=True)  # others under way would be called off
    asked = len(server.requests)
    server.usual = good
    made = check(warehouse, server, rows, judge=True)
    assert made.rows == 6
    assert len(server.requests) - asked == 4


def test_nothing_verified_is_an_error(warehouse, server):
    server.usual = answer("I would rather not.")
    with pytest.raises(NothingVerified, match="none of 2 checks"):
        check(warehouse, server, [question(0), question(1)], judge=True)


def test_a_choice_without_an_answer_is_left_to_curation(warehouse, server):
    rows = [question(0, answer="E"), question(1)]
    made = check(warehouse, server, rows, judge=True)
    assert made.table()["question_id"].to_list() == ["v0-q1"]
    assert rejected(run(warehouse, rows, verdicts=made)) == [("v0-q0", "answer_among_options")]
