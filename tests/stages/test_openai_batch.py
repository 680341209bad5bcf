"""Batch mode against a real server with the files and batches addresses, and by hand where a server has none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from longrl.data.caption import caption
from longrl.data.reason import reason
from longrl.teachers.base import TeacherUnavailable
from longrl.teachers.batch import BatchServer
from tests.stages.misbehaving_server import completion, html, reset, status, text_of
from tests.stages.teaching import calls_of, caption_settings, corpus, one_question, reason_settings, server_settings


def line(request: dict, content: str, code: int = 200) -> dict:
    body = completion(content) if code == 200 else {"error": {"message": content}}
    return {"id": "b", "custom_id": request["custom_id"], "response": {"status_code": code, "body": body}}


def batch(settings):
    return settings.model_copy(update={"mode": "batch"})


def test_captions_by_a_batch_and_what_failed_in_it_by_the_next(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    seen = []

    def offline(request):
        assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
        seen.append(request["body"])
        span = text_of(request["body"])
        if "0:00-0:02" in span:
            return line(request, "broken", 500)
        return None if "0:02-0:04" in span else line(request, "Fine.")

    server.offline = offline
    settings = batch(caption_settings(server.url))
    made = caption(settings, videos, clips, warehouse)
    assert server.requests == []  # nothing went out live
    assert len(server.batches) == 1
    assert [part["type"] for part in seen[0]["messages"][0]["content"]].count("image_url") == 4
    assert (made.rows, made.rejects) == (1, 2)
    reasons = " ".join(made.rejected()["reason"])
    assert "the batch's request failed: broken" in reasons
    assert "ended without an answer" in reasons
    server.offline = lambda request: seen.append(request["body"]) or line(request, "Later.")
    seen.clear()
    for file in Path(made.path).iterdir():
        file.unlink()
    Path(made.path).rmdir()
    made = caption(settings, videos, clips, warehouse)
    assert len(seen) == 2
    assert made.table()["caption"].to_list() == ["Later.", "Later.", "Fine."]
    calls = calls_of(made)
    assert sorted(calls["prompt_tokens"].fill_null(0)) == [0, 100, 100, 100]


def test_questions_and_their_rewriting_are_two_batches(server, warehouse, tmp_path):
    captions = caption(caption_settings(server.url), *corpus(warehouse, tmp_path), warehouse)
    server.requests.clear()

    def offline(request):
        if "rewrite it" in text_of(request["body"]):
            rewritten = {"reasoning": "At 0:00-0:10 a red box is the first to come in.", "answer": "a red box"}
            return line(request, json.dumps(rewritten))
        return line(request, json.dumps({"questions": [one_question(question=f"{request['custom_id']}?")]}))

    server.offline = offline
    made = reason(batch(reason_settings(server.url, 4, rewrite=True)), captions, warehouse, 0)
    assert (made.rows, made.rejects, len(server.batches)) == (8, 0, 2)
    assert set(made.table()["reasoning"]) == {"At 0:00-0:10 a red box is the first to come in."}
    assert made.facts()["steps"] == {"rewritten": 8}


@pytest.mark.parametrize(
    ("address", "reply"),
    [
        ("/batches/", status(401, "no")),
        ("/batches/", status(400, "no")),
        ("/files/", status(500, "oops")),
        ("/files/", reset),
    ],
)
def test_a_run_that_ended_while_it_waited_finds_its_batch_and_sends_nothing_twice(
    server, warehouse, tmp_path, address, reply
):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    server.offline = lambda request: line(request, "Fine.")
    settings = batch(caption_settings(server.url))
    server.otherwise[address] = reply  # to how the batch is doing, or to what came of it
    with pytest.raises(TeacherUnavailable, match=server.url):
        caption(settings, videos, clips, warehouse)
    server.otherwise.clear()
    made = caption(settings, videos, clips, warehouse)
    assert (made.rows, made.rejects, len(server.batches)) == (3, 0, 1)


def test_without_batches_the_file_goes_by_hand(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    settings = batch(caption_settings(server.url))
    for _ in range(2):  # asking again changes nothing
        with pytest.raises(TeacherUnavailable, match=r"has no batches.*put the answers where the arrow points") as told:
            caption(settings, videos, clips, warehouse)
    requests, results = (Path(path) for path in str(told.value).splitlines()[-1].split("  ->  "))
    asked = [json.loads(text) for text in Path(str(requests).strip()).read_text().splitlines()]
    assert len(asked) == 3
    broken = {"custom_id": asked[2]["custom_id"], "response": {"status_code": 500, "body": "no"}}
    answers = [line(asked[0], "First."), line(asked[0], "Again."), line(asked[1], "Second."), broken, ["no object"]]
    results.write_text("\n".join(map(json.dumps, answers)) + "\nnot json\n")
    made = caption(settings, videos, clips, warehouse)
    assert sorted(made.table()["caption"]) == ["First.", "Second."]
    assert made.rejected()["reason"].to_list() == ["the batch's request failed: no"]
    assert server.requests == []


def test_a_web_site_is_not_taken_for_a_server_of_batches(server, warehouse, tmp_path):
    server.otherwise["/files"] = html
    with pytest.raises(TeacherUnavailable, match="does not answer like an OpenAI-compatible server"):
        caption(batch(caption_settings(server.url)), *corpus(warehouse, tmp_path, videos=1), warehouse)


def test_a_run_that_breaks_off_before_it_sends_leaves_no_file(server, tmp_path):
    def items():
        yield "first"
        time.sleep(0.5)  # its request is written meanwhile
        raise OSError("the disk is gone")

    batches = BatchServer(server_settings(server.url), "caption", tmp_path)
    question = [{"role": "user", "content": "Who?"}]
    with pytest.raises(OSError, match="the disk is gone"):
        batches.run(items(), lambda item: batches.complete(question), lambda item, done: None)
    assert list(tmp_path.iterdir()) == []
