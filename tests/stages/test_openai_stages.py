"""The openai teacher inside the stages caption and reason: what is finished is kept, and all of it adds up."""

from __future__ import annotations

import json
import logging

import pytest

from longrl.config import CurateSettings
from longrl.data.caption import NoCaptions, caption
from longrl.data.curate import curate
from longrl.data.reason import NoQuestions, reason
from longrl.teachers.base import TeacherUnavailable
from tests.stages.misbehaving_server import answer, hang, status, text_of
from tests.stages.teaching import KEY, asked_questions, caption_settings, corpus, one_question, reason_settings


def test_every_clip_ends_as_caption_or_reject(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path)
    server.replies = [answer("", finish="stop"), status(400, "too many images"), answer("x", finish="length")]
    made = caption(caption_settings(server.url), videos, clips, warehouse)
    assert (made.rows, made.rejects) == (3, 3)
    assert set(made.table()["clip_id"]) | set(made.rejected()["item"]) == set(clips.table()["clip_id"])
    reasons = " ".join(made.rejected()["reason"])
    assert all(words in reasons for words in ("empty answer", "too many images", "cut off"))


def test_captions_written_before_the_server_went_are_kept(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path)
    server.replies = [answer(f"Caption {n}.") for n in range(4)]
    server.usual = status(401, "key revoked")
    with pytest.raises(TeacherUnavailable, match="key revoked"):
        caption(caption_settings(server.url, concurrency=1), videos, clips, warehouse)
    server.usual = answer("Later.")
    server.requests.clear()
    made = caption(caption_settings(server.url, concurrency=1), videos, clips, warehouse)
    assert len(server.requests) == 2
    texts = made.table()["caption"].to_list()
    assert sorted(texts) == ["Caption 0.", "Caption 1.", "Caption 2.", "Caption 3.", "Later.", "Later."]


def test_a_clip_that_always_breaks_the_server_is_rejected_and_the_others_go_on(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path)

    def allergic(handler) -> None:
        broken = "0:04-0:06 of" in text_of(handler.body)
        (status(500, "crashed") if broken else answer("Fine."))(handler)

    server.usual = allergic
    made = caption(caption_settings(server.url, concurrency=1, retries=1), videos, clips, warehouse)
    assert made.rejected()["item"].to_list() == ["0-2", "1-2"]  # the very last clip among them
    assert made.rejected()["reason"].to_list() == ["500 crashed, 2 times"] * 2


def test_a_server_that_refuses_every_request_stops_the_stage(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path)
    server.usual = status(400, "m is not a multimodal model")
    with pytest.raises(
        TeacherUnavailable, match=f"{server.url} refused each of the first 3 requests to m: 400 m is not"
    ):
        caption(caption_settings(server.url, concurrency=1), videos, clips, warehouse)
    assert len(server.requests) == 3


def test_nothing_but_refusals_says_so(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    server.usual = answer(None, refusal="No.")
    with pytest.raises(NoCaptions, match=r"none of 3 clips could be described: the model refused: No\."):
        caption(caption_settings(server.url), videos, clips, warehouse)


def test_requests_in_flight_are_bounded(server, warehouse, tmp_path):
    flight = {"now": 0, "most": 0}

    def slow(handler) -> None:
        with handler.server.lock:
            flight["now"] += 1
            flight["most"] = max(flight.values())
        hang(0.1)(handler)
        with handler.server.lock:
            flight["now"] -= 1
        answer("Fine.")(handler)

    server.usual = slow
    videos, clips = corpus(warehouse, tmp_path, clips=6)
    caption(caption_settings(server.url, concurrency=3), videos, clips, warehouse)
    assert flight["most"] == 3


def test_stages_add_up_and_hold_no_key(server, writing_server, warehouse, tmp_path, monkeypatch, caplog):
    """From files to the dataset: every question asked for ends in the output or in the rejects of reason or curate."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    videos, clips = corpus(warehouse, tmp_path, videos=3)
    captions = caption(caption_settings(server.url), videos, clips, warehouse)
    writing_server.replies = [answer("no"), answer(json.dumps({"questions": [one_question(answer="Z")]}))]
    questions = reason(reason_settings(writing_server.url, 4), captions, warehouse, 0)
    assert (questions.rows, questions.rejects) == (10, 2)
    assert set(questions.rejected()["rule"]) == {"teacher"}
    dataset = curate(CurateSettings(), captions, questions, warehouse, 0)
    assert dataset.rows + dataset.rejects == questions.rows
    assert dataset.rows == 4  # one a category: the server writes the same about every video
    assert set(dataset.rejected()["rule"]) == {"near_duplicate"}
    files = [path for path in warehouse.root.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text


def test_questions_survive_a_resumed_run_with_their_rejects(writing_server, server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path)
    captions = caption(caption_settings(server.url), videos, clips, warehouse)
    writing_server.replies = [answer("no")] + [asked_questions] * 4
    writing_server.usual = status(401, "key revoked")
    with pytest.raises(TeacherUnavailable):
        reason(reason_settings(writing_server.url, concurrency=1), captions, warehouse, 0)
    writing_server.usual = asked_questions
    writing_server.requests.clear()
    made = reason(reason_settings(writing_server.url, concurrency=1), captions, warehouse, 0)
    assert len(writing_server.requests) == 4  # the second video's only
    assert (made.rows, made.rejects) == (7, 1)


def test_same_question_written_twice_is_a_reject(server, warehouse, captions):
    server.usual = answer(json.dumps({"questions": [one_question()] * 2}))
    made = reason(reason_settings(server.url, 8), captions, warehouse, 0)
    assert (made.rows, made.rejects) == (4, 4)


def test_a_writer_that_never_writes_json_says_so(server, warehouse, captions):
    server.usual = answer("Once upon a time")
    with pytest.raises(NoQuestions, match="Once upon a time"):
        reason(reason_settings(server.url), captions, warehouse, 0)
