"""The measured teacher with its ears open: what it hears of real films against their truth, and what it asks of it."""

import json
import random
from pathlib import Path

import polars as pl
import pytest

from longrl.config import CaptionSettings, IngestSettings, ReasonSettings, SegmentSettings, StoriesSettings
from longrl.data.caption import caption
from longrl.data.ingest import ingest
from longrl.data.reason import reason
from longrl.data.segment import segment
from longrl.data.stories import render_stories
from longrl.teachers import language
from longrl.video.stories import CORNERS, PLACES, SOUNDS, make_story, write_film
from longrl.warehouse.artifacts import Warehouse

COUNT = 12


def captioned(warehouse, folder, **settings):
    videos = ingest(IngestSettings(), folder, warehouse)
    clips = segment(SegmentSettings(), videos, warehouse)
    return videos, caption(CaptionSettings(**settings), videos, clips, warehouse)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """(warehouse, folder of films, captions, questions, truth by video id) of stories with sound."""
    warehouse = Warehouse(tmp_path_factory.mktemp("heard"))
    corpus = render_stories(StoriesSettings(count=COUNT, scenes=5, sound=True), 2, warehouse)
    videos, captions = captioned(warehouse, corpus.file("videos"), listen=True)
    questions = reason(ReasonSettings(questions_per_video=50), captions, warehouse, 0)
    truth = json.loads(corpus.file("truth.json").read_text())
    names = dict(videos.table().select("video_id", "path").iter_rows())
    return (
        warehouse,
        corpus.file("videos"),
        captions,
        questions,
        {video_id: truth[Path(path).name] for video_id, path in names.items()},
    )


def test_what_is_heard_in_a_clip_is_what_its_agent_does(heard):
    _, _, captions, _, truth = heard
    table = captions.table()
    assert len(table) == COUNT * 5
    right = []
    for row in table.iter_rows(named=True):
        visits = json.loads(row["facts"])["visits"]
        right.append([visit.get("sound") for visit in visits] == [truth[row["video_id"]]["sounds"][row["index"]]])
    assert sum(right) / len(right) >= 0.98
    assert all(any(sound in caption for sound in SOUNDS) for caption in table["caption"].to_list())


def test_answers_about_sounds_are_right_by_the_truth(heard):
    _, _, _, questions, truth = heard
    table = questions.table().filter(pl.col("category") == "sound")
    assert table["video_id"].n_unique() == COUNT
    right = 0
    for row in table.iter_rows(named=True):
        story = truth[row["video_id"]]
        events = [
            language.Event(number, s["start"], s["end"], s["actor"], s["place"], s["corner"], sound)
            for number, (s, sound) in enumerate(zip(story["scenes"], story["sounds"], strict=True), 1)
        ]
        asked = language.questions(events, list(CORNERS), list(PLACES), random.Random(1), list(SOUNDS))
        expected = {question.text: question.options["ABCD".index(question.answer)] for question in asked}
        right += expected.get(row["question"]) == row["options"]["ABCD".index(row["answer"])]
    assert right / len(table) >= 0.98
    kinds = {row["question"].split()[0] for row in table.iter_rows(named=True)}
    assert kinds == {"What", "Who"}  # what does red do, what is heard in which order; who beeps


def test_pictures_alone_are_captioned_as_those_of_a_silent_film(heard, tmp_path):
    warehouse, folder, captions, _, _ = heard
    _, deaf = captioned(warehouse, folder)
    assert not any("sound" in visit for facts in deaf.table()["facts"] for visit in json.loads(facts)["visits"])
    assert deaf.key != captions.key
    assert not any(sound in caption for sound in SOUNDS for caption in deaf.table()["caption"].to_list())


def test_a_silent_film_among_others_is_rejected_with_its_name_and_the_others_go_on(tmp_path):
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "mute.mp4", make_story(1, 2))
    write_film(tmp_path / "films" / "heard.mp4", make_story(2, 2, sound=True))
    _, captions = captioned(Warehouse(tmp_path / "warehouse"), tmp_path / "films", listen=True)
    assert (captions.rows, captions.rejects) == (2, 2)
    assert all("mute.mp4 has no sound track" in reason for reason in captions.rejected()["reason"])
