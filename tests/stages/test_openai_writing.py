"""What the openai teacher sends and makes of it: clips as video, boxes, summaries, rewriting, open questions, keys."""

from __future__ import annotations

import base64
import io
import json
import logging
import re

import av
import polars as pl
import pytest

from longrl.config import PipelineConfig
from longrl.data.caption import caption
from longrl.data.estimate import estimate
from longrl.data.reason import reason
from longrl.teachers.base import CaptionedClip, TeacherUnavailable
from longrl.teachers.openai import OpenAIWriter, kinds, quotas
from tests.stages.misbehaving_server import answer, status, text_of
from tests.stages.teaching import (
    KEY,
    asked_questions,
    calls_of,
    caption_settings,
    corpus,
    one_question,
    reason_settings,
)


def film(clips: int, words: int, **facts) -> list[CaptionedClip]:
    return [
        CaptionedClip(f"c{n}", "v", n, 10.0 * n, 10.0 * n + 10, f"Scene {n}. " + "word " * words, facts)
        for n in range(clips)
    ]


def test_a_clip_goes_out_as_one_video(server, warehouse, tmp_path):
    settings = caption_settings(server.url).model_copy(update={"send": "video"})
    caption(settings, *corpus(warehouse, tmp_path, videos=1), warehouse)
    [video, text] = server.requests[0]["messages"][0]["content"]
    prefix, data = video["video_url"]["url"].split(",")
    assert prefix == "data:video/mp4;base64"
    with av.open(io.BytesIO(base64.b64decode(data))) as container:
        assert len(list(container.decode(video=0))) == 4
        assert float(container.duration / 1e6) == pytest.approx(2.0, abs=0.1)
    assert "a film without sound of 4 pictures" in text["text"]


def test_boxes_are_kept_where_they_lie_in_the_clip_and_shown_for_spatial_questions(server, warehouse, tmp_path):
    good = {"label": "blue crate", "box": [0.1, 0.2, 0.4, 0.6], "time": 1.0}
    objects = [good, good | {"box": [10, 20, 40, 60]}, good | {"time": 99.0}, {"label": "x"}]
    server.usual = answer(json.dumps({"caption": "A red box.", "objects": objects}))
    settings = caption_settings(server.url).model_copy(update={"boxes": True})
    captions = caption(settings, *corpus(warehouse, tmp_path, videos=1, clips=1), warehouse)
    assert json.loads(captions.table()["facts"][0]) == {"objects": [good], "unusable_objects": 3}
    server.requests.clear()
    server.usual = asked_questions
    reason(reason_settings(server.url, 4), captions, warehouse, 0)
    assert ["blue crate" in text_of(body) for body in server.requests].count(True) == 1
    assert '"box": [0.1, 0.2, 0.4, 0.6]' in "".join(map(text_of, server.requests))


def test_every_call_is_kept_with_its_words_and_without_its_pictures(server, warehouse, tmp_path):
    made = caption(caption_settings(server.url), *corpus(warehouse, tmp_path, videos=1), warehouse)
    calls = calls_of(made)
    assert calls["item"].to_list() == made.table()["clip_id"].to_list()
    for call in calls.iter_rows(named=True):
        assert (call["category"], call["model"], call["images"], call["finish"]) == ("caption", "m", 4, "stop")
        assert len(call["images_sha256"]) == 64
        assert call["response"] == "A red box stands still."
        parts = json.loads(call["prompt"])[0]["content"]
        assert [part["type"] for part in parts] == ["text", "image_url"] * 4 + ["text"]
        assert "base64" not in call["prompt"]
        assert call["seconds"] > 0


def summing(handler) -> None:
    """Summaries that name their clips, and questions."""
    text = text_of(handler.body)
    if "Sum up the notes" in text:
        numbers = re.findall(r'"n": \[?(\d+)', text)
        answer(" ".join(f"[{number}] something happens" for number in numbers))(handler)
    else:
        asked_questions(handler)


def test_a_video_longer_than_the_context_is_summed_up_and_nothing_is_cut(server, warehouse):
    server.usual = summing
    clips = film(60, 300)  # about 31,000 tokens
    writer = OpenAIWriter(reason_settings(server.url, 4, context=8192))
    assert len(writer.questions(clips, 4, 0)) == 4
    sums = [text_of(body) for body in server.requests if "Sum up" in text_of(body)]
    told = "".join(sums)
    assert all(f"Scene {n}. word" in told for n in range(60))
    for body in server.requests:
        assert len(json.dumps(body["messages"]).encode()) / 3 < 8192 - 1024
    asked = [text_of(body) for body in server.requests if "Sum up" not in text_of(body)]
    assert len(asked) == 4
    assert all(f"[{n}] something" in asked[0] for n in range(60))
    assert re.search(r'"n": \[0, \d+\], "span": "0:00-\d:\d\d"', asked[0])


def test_summaries_are_in_the_facts_and_a_short_video_needs_none(server, warehouse, tmp_path):
    server.usual = answer("A red box. " + "It stands still. " * 400)
    captions = caption(caption_settings(server.url), *corpus(warehouse, tmp_path, videos=2), warehouse)
    server.usual = summing
    made = reason(reason_settings(server.url, 4, context=6000), captions, warehouse, 0)
    assert made.facts()["steps"]["levels"] == 1
    assert made.facts()["steps"]["summed_up_videos"] == 2
    assert reason(reason_settings(server.url, 4), captions, warehouse, 0).facts()["steps"] == {}


def test_a_summary_that_names_no_clips_makes_the_video_a_reject(server, warehouse):
    server.usual = answer("Things happen.")
    writer = OpenAIWriter(reason_settings(server.url, 4, context=8192))
    with pytest.raises(Exception, match=r"the summary of clips 0 to \d+ names none of them: 'Things happen\.'"):
        writer.questions(film(60, 300), 4, 0)


def test_the_servers_own_context_is_taken_where_it_is_asked_for(server):
    assert OpenAIWriter(reason_settings(server.url, model="", context=0)).identity["context"] == 5000


REWRITES = {
    "used": ({"reasoning": "At 0:00-0:10 the red box enters before all others.", "answer": "A red box."}, True),
    "other answer": ({"reasoning": "At 0:00-0:10 the blue ball enters before all.", "answer": "a blue ball"}, False),
    "too short": ({"reasoning": "Clear.", "answer": "a red box"}, False),
    "betrays": ({"reasoning": "The caption of clip 3 says the red box enters first.", "answer": "a red box"}, False),
    "no JSON": ("So it is.", False),
}


@pytest.mark.parametrize("case", REWRITES)
def test_a_rewriting_is_taken_only_when_it_is_of_use(server, warehouse, captions, case):
    written, used = REWRITES[case]

    def reply(handler) -> None:
        if "rewrite it" in text_of(handler.body):
            answer(written if isinstance(written, str) else json.dumps(written))(handler)
        else:
            asked_questions(handler)

    server.usual = reply
    made = reason(reason_settings(server.url, 4, rewrite=True), captions, warehouse, 0)
    assert (made.rows, made.rejects) == (4, 0)
    assert made.facts()["steps"] == {"rewritten" if used else "not_rewritten": 4}
    expected = written["reasoning"] if used else one_question()["reasoning"]
    assert set(made.table()["reasoning"]) == {expected}


def test_the_share_of_open_questions_is_kept_over_videos():
    split = [kinds(quotas(6, 0, f"v{n}"), 0.3, 0, f"v{n}") for n in range(500)]
    opens = sum(each[1] for video in split for each in video.values())
    assert opens == pytest.approx(0.3 * 3000, rel=0.03)
    assert all(sum(map(sum, video.values())) == 6 for video in split)


def test_open_questions_have_an_answer_in_words(server, warehouse, captions):
    entry = one_question(answer="The red box.")
    entry.pop("options")

    def reply(handler) -> None:
        fields = handler.body["response_format"]["json_schema"]["schema"]["properties"]
        entries = {"questions": [one_question()], "open_questions": [entry]}
        answer(json.dumps({field: entries[field] for field in fields}))(handler)

    server.usual = reply
    made = reason(reason_settings(server.url, 8, open_share=0.5), captions, warehouse, 0)
    assert len(server.requests) == 4  # both kinds of a category in one
    table = made.table()
    assert sorted(table["kind"]) == ["choice"] * 4 + ["open"] * 4
    for row in table.filter(pl.col("kind") == "open").iter_rows(named=True):
        assert (row["options"], row["answer"]) == ([], "The red box.")


def test_an_estimate_counts_only_what_is_not_done_and_asks_for_nothing(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=2)
    settings = caption_settings(server.url, price_input=1e6, price_output=0.0)
    config = PipelineConfig(caption=settings, reason=reason_settings(server.url, 4, rewrite=True))
    first = estimate(config, videos, clips, warehouse).splitlines()
    assert server.requests == []
    assert first[0].startswith("2 videos, 6 clips")
    name, requests, prompt, written, cost, _ = first[2].split()
    assert (name, requests, written) == ("caption", "6", "1200")
    assert float(cost) == int(prompt) > 6 * 4 * 5  # four pictures of 56 x 56 pixels take 5 tokens each
    assert first[3].split()[:2] == ["reason", "16"]  # a request a category, and one a question
    server.replies = [answer("Fine.")] * 4
    server.usual = status(401, "no")
    with pytest.raises(TeacherUnavailable):
        caption(caption_settings(server.url, concurrency=1), videos, clips, warehouse)
    assert estimate(config, videos, clips, warehouse).splitlines()[2].split()[:2] == ["caption", "2"]


def test_an_estimate_counts_nothing_for_a_video_that_can_not_be_summed_up(server, warehouse, tmp_path):
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    server.usual = answer("A red box. " + "It stands still. " * 1000)
    caption(caption_settings(server.url), videos, clips, warehouse)
    config = PipelineConfig(caption=caption_settings(server.url), reason=reason_settings(server.url, 4, context=6000))
    assert estimate(config, videos, clips, warehouse).splitlines()[3].split()[:2] == ["reason", "0"]


def test_no_key_is_in_the_warehouse_or_the_logs_even_if_the_server_says_it(
    server, warehouse, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    videos, clips = corpus(warehouse, tmp_path, videos=1)
    server.usual = answer(f"A sign says {KEY}.")
    server.replies = [status(400, f"bad key {KEY}"), answer(None, refusal=f"{KEY}?")]
    made = caption(caption_settings(server.url, concurrency=1), videos, clips, warehouse)
    assert (made.rows, made.rejects) == (1, 2)
    batch = caption_settings(server.url, max_tokens=999).model_copy(update={"mode": "batch"})
    with pytest.raises(TeacherUnavailable):
        caption(batch, videos, clips, warehouse)
    assert server.authorization == {f"Bearer {KEY}"}
    files = [path for path in warehouse.root.rglob("*") if path.is_file()]
    assert {"calls.parquet", "manifest.json", "ledger.sqlite"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in " ".join(calls_of(made).select(pl.col(pl.String)).write_csv())
    assert KEY not in caplog.text
