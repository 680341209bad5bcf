"""The openai teacher against a server that misbehaves on purpose: what is sent, tried again, and said of a failure."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket

import numpy as np
import pytest
from PIL import Image

from longrl.config import CaptionSettings
from longrl.errors import Transient
from longrl.limits import limited
from longrl.teachers.base import Clip, QuestionDraft, TeacherError, TeacherUnavailable
from longrl.teachers.dialect import Dialect
from longrl.teachers.faults import retry_after
from longrl.teachers.openai import OpenAICaptioner, OpenAIWriter, quotas
from tests.stages.misbehaving_server import MisbehavingServer, answer, hang, html, reset, status, text_of
from tests.stages.teaching import CAPTIONED, KEY, one_question, reason_settings, server_settings

FRAMES = np.full((3, 28, 56, 3), (200, 30, 30), np.uint8)
CLIP = Clip("c", "v", "/nowhere.mp4", 1, 10.0, 20.0, 56, 28)


def describe(server: MisbehavingServer | str, **changes) -> str:
    url = server if isinstance(server, str) else server.url
    teacher = OpenAICaptioner(CaptionSettings(frames_per_clip=3, size=56, server=server_settings(url, **changes)))
    return teacher.caption(FRAMES, (11.0, 15.0, 19.5), CLIP).text


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_frames_go_out_in_order_each_after_its_time(server):
    assert describe(server) == "A red box stands still."
    [body] = server.requests
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 3 + ["text"]
    assert [part["text"] for part in content[:6:2]] == ["0:11", "0:15", "0:19.5"]
    assert "0:10-0:20" in content[-1]["text"]
    prefix, data = content[1]["image_url"]["url"].split(",")
    assert prefix == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (56, 28)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 1024, 0.0)


def test_each_request_waits_for_the_limit_that_runs_share_the_repeated_ones_too(server):
    turns = []

    async def turn():
        turns.append(len(server.requests))

    server.replies += [status(503, "busy"), answer("A red box stands still.")]
    with limited(calling=turn):
        describe(server)
    assert turns == [0, 1]


def test_without_a_model_name_the_servers_first_is_taken(server):
    describe(server, model="")
    assert server.requests[0]["model"] == "first-model"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (status(400, "no"), "400 no.*check caption.server against what the server says"),
        (status(500, "oops"), r"/models is of no use \(500 oops, 1 times\); set caption.server.model and context"),
    ],
)
def test_a_server_that_does_not_list_its_models_is_no_server_without_a_name(server, reply, words):
    server.otherwise["/models"] = reply
    with pytest.raises(TeacherUnavailable, match=words):
        describe(server, model="", retries=0)


def test_one_request_per_category_over_all_captions_in_order(writing_server):
    drafts = OpenAIWriter(reason_settings(writing_server.url)).questions(CAPTIONED, 6, seed=0)
    assert len(drafts) == 6
    assert {draft.category for draft in drafts} == {"temporal", "goal", "spatial", "plot"}
    assert len(writing_server.requests) == 4
    for body in writing_server.requests:
        places = [text_of(body).index(f'{{"n": {n}, "span": "0:{n}0-') for n in range(2)]
        assert places == sorted(places)
        assert body["response_format"]["json_schema"]["strict"] is True


def test_fewer_questions_than_categories_ask_fewer_requests(writing_server):
    assert len(OpenAIWriter(reason_settings(writing_server.url)).questions(CAPTIONED, 2, seed=0)) == 2
    assert len(writing_server.requests) == 2


def test_quotas_add_up_and_the_odd_ones_move_with_the_video():
    assert all(sum(quotas(count, 3, "v").values()) == count for count in range(1, 13))
    assert len({tuple(quotas(5, 0, f"v{n}").values()) for n in range(40)}) == 4


# -- what may pass is tried again --------------------------------------------------------------------------------------


def test_429_is_tried_again_after_the_time_the_server_names(server):
    server.replies = [status(429, "slow down", {"retry-after": "2"})]
    assert describe(server)
    assert 2.0 <= server.times[1] - server.times[0] < 4.0


@pytest.mark.parametrize("fault", [status(500, "oops"), status(503, "loading"), reset])
def test_a_passing_fault_is_tried_again(server, fault):
    server.replies = [fault, fault]
    assert describe(server) == "A red box stands still."
    assert len(server.requests) == 3


def test_a_timeout_is_tried_again(server):
    server.replies = [hang(3.0)]
    assert describe(server, timeout=1.0) == "A red box stands still."


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, TeacherError), (401, TeacherUnavailable), (403, TeacherUnavailable), (404, TeacherUnavailable)],
)
def test_what_will_not_pass_is_sent_once(server, code, error):
    server.usual = status(code, "no")
    with pytest.raises(error) as caught:
        describe(server)
    assert len(server.requests) == 1
    assert not isinstance(caught.value, Transient)  # nor does the flow try the stage again


def test_a_spent_quota_is_not_tried_again(server):
    server.usual = status(429, "pay first", error_code="insufficient_quota")
    with pytest.raises(TeacherUnavailable, match="pay first"):
        describe(server)
    assert len(server.requests) == 1


def test_retry_after_reads_dates():
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after(None) is None


# -- one clear error ---------------------------------------------------------------------------------------------------


def test_an_unreachable_server_is_named_with_cause_and_remedy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(
        TeacherUnavailable, match=rf"{url} .*Connection refused.*start the server or set caption.server.base_url"
    ):
        describe(url, retries=1)


def test_401_names_the_variable_that_holds_the_key(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.usual = status(401, "who are you?")
    with pytest.raises(
        TeacherUnavailable, match=rf"{server.url} .*401 who are you\?.*valid key in OPENAI_API_KEY \(it is not"
    ):
        describe(server)


def test_404_points_to_the_model_and_the_address(server):
    server.usual = status(404, "no such model")
    with pytest.raises(TeacherUnavailable, match=r"check caption.server.model \(m\) and caption.server.base_url"):
        describe(server)


def test_a_web_site_is_not_taken_for_a_server(server):
    server.usual = html
    with pytest.raises(TeacherUnavailable, match="does not answer like an OpenAI-compatible server"):
        describe(server)


def test_the_key_is_sent_and_never_told(server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.replies = [status(500, f"your key {KEY} broke me")]
    server.usual = status(401, f"bad key {KEY}")
    with pytest.raises(TeacherUnavailable) as caught:
        describe(server)
    assert server.authorization == {f"Bearer {KEY}"}
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text
    assert "***" in caplog.text


# -- bad answers are the item's own ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(None, refusal="I won't."), "refused: I won't"),
        (answer("x", finish="content_filter"), "content filter"),
        (answer(""), "empty answer"),
        (answer("<think>hm</think>  "), "empty answer"),
        (answer("A red", finish="length"), r"cut off at 1024 tokens; raise caption.server.max_tokens"),
    ],
)
def test_a_bad_caption_is_an_error_of_the_clip(server, reply, reason):
    server.usual = reply
    with pytest.raises(TeacherError, match=reason):
        describe(server)
    assert len(server.requests) == 1


def test_a_failed_category_leaves_the_others(writing_server):
    writing_server.replies = [answer("no JSON at all")]
    drafts = OpenAIWriter(reason_settings(writing_server.url)).questions(CAPTIONED, 4, seed=0)
    assert sorted(isinstance(draft, TeacherError) for draft in drafts) == [False, False, False, True]


def test_a_server_without_json_schema_is_asked_for_any_json(writing_server):
    def deepseek(handler) -> None:
        if handler.body["response_format"]["type"] != "json_object":
            status(400, "This response_format type is unavailable now")(handler)
        else:
            answer(json.dumps({"questions": [one_question()]}))(handler)

    writing_server.usual = deepseek
    drafts = OpenAIWriter(reason_settings(writing_server.url, concurrency=1)).questions(CAPTIONED, 4, seed=0)
    assert len([draft for draft in drafts if isinstance(draft, QuestionDraft)]) == 4
    assert len(writing_server.requests) == 5  # it is told once


def test_dialects():
    assert Dialect().after("Use 'max_completion_tokens' instead.").tokens_field == "max_completion_tokens"
    assert not Dialect().after("temperature does not support 0.0 with this model").temperature
    assert Dialect().after("prompt is too long") == Dialect()
