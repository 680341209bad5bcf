"""The openai teacher against a server that misbehaves on purpose, alone and inside the stages caption and reason."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import socket
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
from misbehaving_server import MisbehavingServer, answer, hang, html, reset, status, text_of
from PIL import Image

from longrl.config import CaptionSettings, CurateSettings, ReasonSettings, TeacherServer
from longrl.data.caption import NoCaptions, caption
from longrl.data.curate import curate
from longrl.data.reason import NoQuestions, reason
from longrl.errors import Transient
from longrl.teachers.base import (
    CaptionedClip,
    Clip,
    QuestionDraft,
    TeacherError,
    TeacherUnavailable,
)
from longrl.teachers.openai import OpenAICaptioner, OpenAIWriter, quotas, read_questions
from longrl.teachers.server import Dialect, retry_after
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.schemas import empty

KEY = "sk-very-secret-4711"
FRAMES = np.full((3, 28, 56, 3), (200, 30, 30), np.uint8)
CLIP = Clip("c", "v", "/nowhere.mp4", 1, 10.0, 20.0, 56, 28)
CAPTIONED = [CaptionedClip(f"c{n}", "v", n, 10.0 * n, 10.0 * n + 10, f"Scene {n}.", {}) for n in range(3)]


def one_question(**changes) -> dict:
    return {
        "question": "Who comes in first?",
        "options": ["a red box", "a blue ball", "a dog", "a cat"],
        "evidence": [0, 1],
        "reasoning": "At 0:00-0:10 the red box comes in, before anybody else.",
        "conclusion": "A red box comes in first.",
        "answer": "A",
    } | changes


def asked_questions(handler) -> None:
    """As many good questions as the schema asks for, different for each video and category."""
    schema = handler.body["response_format"]["json_schema"]["schema"]
    tag = hashlib.sha256(text_of(handler.body).encode()).hexdigest()[:6]
    questions = [
        one_question(question=f"Who comes in at {tag} as number {n}?")
        for n in range(schema["properties"]["questions"]["maxItems"])
    ]
    answer(json.dumps({"questions": questions}))(handler)


@pytest.fixture
def server():
    with MisbehavingServer(answer("A red box stands still.")) as running:
        yield running


@pytest.fixture
def writing_server():
    with MisbehavingServer(asked_questions) as running:
        yield running


def settings(url: str, **changes) -> TeacherServer:
    return TeacherServer(**{"base_url": url, "model": "m", "timeout": 20.0, "retries": 2} | changes)


def describe(server: MisbehavingServer | str, **changes) -> str:
    url = server if isinstance(server, str) else server.url
    teacher = OpenAICaptioner(CaptionSettings(frames_per_clip=3, size=56, server=settings(url, **changes)))
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


def test_without_a_model_name_the_servers_first_is_taken(server):
    describe(server, model="")
    assert server.requests[0]["model"] == "first-model"


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


@pytest.mark.parametrize(
    "text", ["nothing of use", '{"questions": ', '{"items": []}', "[]", '{"questions": []}', '{"questions": 3}']
)
def test_an_answer_that_is_no_json_is_an_error(text):
    with pytest.raises(TeacherError, match=r"not the JSON asked for|no questions"):
        read_questions(text, "plot", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"question": " "},
        {"options": ["one"]},
        {"options": "abcd"},
        {"answer": "a red box"},
        {"evidence": [10**30]},
        {"evidence": [-1]},
        {"reasoning": ""},
        {"question": "\ud800?"},
    ],
)
def test_a_malformed_question_leaves_the_others(changes):
    bad, good = read_questions(json.dumps({"questions": [one_question(**changes), one_question()]}), "plot", 2)
    assert isinstance(bad, TeacherError)
    assert isinstance(good, QuestionDraft)


def test_json_in_a_code_fence_is_read_and_surplus_dropped():
    text = "```json\n" + json.dumps({"questions": [one_question()] * 3}) + "\n```"
    assert len(read_questions(text, "goal", 2)) == 2


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


# -- inside the stages -------------------------------------------------------------------------------------------------


def video(folder: Path, shade: int, seconds: int) -> Path:
    """A small H.264 file, 4 frames a second."""
    path = folder / f"{shade}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(seconds * 4):
            pixels = np.full((64, 64, 3), (shade, number % 200, 90), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


def corpus(warehouse: Warehouse, folder: Path, videos: int = 2, clips: int = 3) -> tuple[ArtifactRef, ArtifactRef]:
    """Two artifacts as ingest and segment leave them, over real files."""
    rows, spans = [], []
    for number in range(videos):
        path = video(folder, 40 + 60 * number, 2 * clips)
        name = hashlib.sha256(path.read_bytes()).hexdigest()
        row = {"video_id": name, "path": str(path), "bytes": path.stat().st_size, "container": "mp4", "codec": "h264"}
        size = {"duration": 2.0 * clips, "fps": 4.0, "frames": 8 * clips, "width": 64, "height": 64, "rotation": 0}
        rows.append(row | size | {"variable_rate": False, "audio": False})
        for n in range(clips):
            span = {"index": n, "start": 2.0 * n, "end": 2.0 * n + 2}
            spans.append({"clip_id": f"{number}-{n}", "video_id": name} | span)

    def stage(name: str, rows: list[dict]) -> ArtifactRef:
        frame = pl.DataFrame(rows, schema=empty(name).schema)
        return warehouse.produce(name, 1, {}, {"rows": str(rows)}, lambda draft: draft.write(frame))

    return stage("ingest", rows), stage("segment", spans)


def caption_settings(url: str, **changes) -> CaptionSettings:
    return CaptionSettings(teacher="openai", frames_per_clip=4, size=56, workers=1, server=settings(url, **changes))


def reason_settings(url: str, count: int = 4, rewrite: bool = False, open_share: float = 0.0, **changes):
    asked = {"questions_per_video": count, "rewrite": rewrite, "open_share": open_share}
    return ReasonSettings(teacher="openai", server=settings(url, **changes), **asked)


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


def test_same_question_written_twice_is_a_reject(writing_server, server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    captions = caption(caption_settings(server.url), videos, clips, warehouse)
    writing_server.usual = answer(json.dumps({"questions": [one_question()] * 2}))
    made = reason(reason_settings(writing_server.url, 8), captions, warehouse, 0)
    assert (made.rows, made.rejects) == (4, 4)


def test_a_writer_that_never_writes_json_says_so(writing_server, server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    captions = caption(caption_settings(server.url), videos, clips, warehouse)
    writing_server.usual = answer("Once upon a time")
    with pytest.raises(NoQuestions, match="Once upon a time"):
        reason(reason_settings(writing_server.url), captions, warehouse, 0)
