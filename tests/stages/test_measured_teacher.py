"""The measured teacher on real files: stories against their truth, and made scenes against what was made."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from longrl.config import CaptionSettings, IngestSettings, ReasonSettings, SegmentSettings, StoriesSettings
from longrl.data.caption import NoCaptions, caption
from longrl.data.ingest import ingest
from longrl.data.reason import reason
from longrl.data.segment import segment
from longrl.data.stories import render_stories
from longrl.teachers import language
from longrl.video.stories import CORNERS, PLACES
from longrl.warehouse.artifacts import Warehouse
from tests.videos import write_video

COUNT = 40
CLIPS = COUNT * StoriesSettings().scenes


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """(warehouse, videos' folder, captions, questions, truth by video id) of 40 stories."""
    warehouse = Warehouse(tmp_path_factory.mktemp("stories"))
    corpus = render_stories(StoriesSettings(count=COUNT), 3, warehouse)
    videos, captions = captioned(warehouse, corpus.file("videos"))
    questions = reason(ReasonSettings(questions_per_video=50), captions, warehouse, 0)
    truth = json.loads(corpus.file("truth.json").read_text())
    names = dict(videos.table().select("video_id", "path").iter_rows())
    truth = {video_id: truth[os.path.basename(path)]["scenes"] for video_id, path in names.items()}
    return warehouse, corpus.file("videos"), captions, questions, truth


def captioned(warehouse, folder, **settings):
    videos = ingest(IngestSettings(), folder, warehouse)
    clips = segment(SegmentSettings(), videos, warehouse)
    return videos, caption(CaptionSettings(**settings), videos, clips, warehouse)


def true_events(scenes) -> list:
    return [
        language.Event(number, scene["start"], scene["end"], scene["actor"], scene["place"], scene["corner"])
        for number, scene in enumerate(scenes, 1)
    ]


def test_corpus_is_rendered_with_its_truth_apart(stories):
    warehouse = stories[0]
    ref = render_stories(StoriesSettings(count=COUNT), 3, warehouse)
    assert ref.cached
    assert ref.rows == COUNT == len(list(ref.file("videos").iterdir()))
    other = render_stories(StoriesSettings(count=4), 4, warehouse)
    assert not {path.name for path in ref.file("videos").iterdir()} & {p.name for p in other.file("videos").iterdir()}


def test_what_is_seen_in_a_clip_is_what_happens(stories):
    _, _, captions, _, truth = stories
    right = 0
    for row in captions.table().iter_rows(named=True):
        scene = truth[row["video_id"]][row["index"]]
        visits = json.loads(row["facts"])["visits"]
        seen = [(visit["actor"], visit["place"], visit["corner"]) for visit in visits]
        timely = [scene["appears"] - 1 < v["start"] < v["end"] < scene["leaves"] + 1 for v in visits]
        right += seen == [(scene["actor"], scene["place"], scene["corner"])] and all(timely)
    assert captions.rows == CLIPS
    assert right / captions.rows >= 0.99


def test_answers_are_right_by_the_truth(stories):
    _, _, _, questions, truth = stories
    expected = {
        video_id: {
            question.text: question.options["ABCD".index(question.answer)]
            for question in language.questions(true_events(scenes), list(CORNERS), list(PLACES), random.Random(1))
        }
        for video_id, scenes in truth.items()
    }
    table = questions.table()
    right = sum(
        expected[row["video_id"]].get(row["question"]) == row["options"]["ABCD".index(row["answer"])]
        for row in table.iter_rows(named=True)
    )
    assert table["video_id"].n_unique() == COUNT
    assert right / len(table) >= 0.99


def test_every_story_is_asked_about_in_all_categories(stories):
    _, _, captions, _, _ = stories
    table = reason(ReasonSettings(questions_per_video=6), captions, stories[0], 0).table()
    assert set(table.group_by("video_id").agg(pl.col("category").n_unique())["category"]) == {4}
    assert all(len(set(options)) == 4 for options in table["options"].to_list())
    assert table.group_by("video_id").len()["len"].to_list() == [6] * COUNT


def test_evidence_is_the_clips_the_answer_rests_on(stories):
    _, _, _, questions, truth = stories
    for row in questions.table().filter(pl.col("category") == "goal").iter_rows(named=True):
        actors = [truth[row["video_id"]][index]["actor"] for index in row["evidence"]]
        assert len(actors) == 1
        assert actors[0] in row["question"]


def test_another_seed_asks_other_questions_of_the_same_captions(stories):
    warehouse, _, captions, _, _ = stories
    asked = [set(reason(ReasonSettings(), captions, warehouse, seed).table()["question_id"]) for seed in (0, 1)]
    assert asked[0] != asked[1]


def test_made_scene_is_described_as_it_was_made(tmp_path):
    frames = np.full((100, 64, 112, 3), (60, 90, 200), np.uint8)
    for index, frame in enumerate(frames):
        frame[20:44, index : index + 12] = (250, 250, 250)
        frame[28:36, index + 3 : index + 8] = (20, 20, 20)
    write_video(tmp_path / "videos" / "bar.mp4", frames, fps=10)
    _, captions = captioned(Warehouse(tmp_path / "warehouse"), tmp_path / "videos")
    text = captions.table()["caption"][0]
    assert "blue" in text
    assert "moves to the right" in text
    assert "cuts" not in text


def test_cut_scene_is_told_with_its_times_in_the_video(tmp_path):
    shots = [np.full((40, 64, 112, 3), rgb, np.uint8) for rgb in ((200, 40, 40), (40, 160, 60), (60, 80, 210))]
    write_video(tmp_path / "videos" / "cuts.mp4", np.concatenate(shots), fps=10)
    warehouse = Warehouse(tmp_path / "warehouse")
    _, captions = captioned(warehouse, tmp_path / "videos")
    assert "cuts at 0:04, 0:08" in captions.table()["caption"][0].replace("0:03.9", "0:04").replace("0:07.9", "0:08")
    asked = reason(ReasonSettings(), captions, warehouse, 0).table()
    row = asked.filter(asked["question"] == "How often does the picture cut?").row(0, named=True)
    assert row["options"]["ABCD".index(row["answer"])] == "two cuts"


def test_video_that_vanishes_is_rejected_and_the_rest_is_described(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    for number in (50, 200):
        write_video(tmp_path / "videos" / f"{number}.mp4", np.full((30, 64, 96, 3), number, np.uint8))
    videos = ingest(IngestSettings(), tmp_path / "videos", warehouse)
    clips = segment(SegmentSettings(), videos, warehouse)
    (tmp_path / "videos" / "50.mp4").unlink()
    ref = caption(CaptionSettings(), videos, clips, warehouse)
    assert (ref.rows, ref.rejects) == (1, 1)
    assert "the file is gone" in ref.rejected()["reason"][0]


def test_nothing_described_is_a_clear_error(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    path = write_video(tmp_path / "videos" / "a.mp4", np.full((30, 64, 96, 3), 90, np.uint8))
    videos = ingest(IngestSettings(), tmp_path / "videos", warehouse)
    clips = segment(SegmentSettings(), videos, warehouse)
    path.unlink()
    with pytest.raises(NoCaptions, match=r"none of 1 clips.*the file is gone"):
        caption(CaptionSettings(), videos, clips, warehouse)


CAPTION_RUN = """
import sys
from longrl.config import CaptionSettings, IngestSettings, SegmentSettings
from longrl.data.caption import caption
from longrl.data.ingest import ingest
from longrl.data.segment import segment
from longrl.warehouse.artifacts import Warehouse
warehouse = Warehouse(sys.argv[1])
videos = ingest(IngestSettings(), sys.argv[2], warehouse)
caption(CaptionSettings(workers=1), videos, segment(SegmentSettings(), videos, warehouse), warehouse)
"""


def items(root) -> set[tuple[int, str]]:
    """(row number, key) of the captions in the ledger; a row that is written again gets a new number."""
    try:
        with sqlite3.connect(f"file:{root / 'caption' / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10) as connection:
            return set(connection.execute("SELECT rowid, key FROM items"))
    except sqlite3.OperationalError:  # not there yet
        return set()


def test_killed_run_goes_on_where_it_was(stories, tmp_path):
    folder = stories[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", CAPTION_RUN, str(tmp_path), str(folder)]
    run = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while len(items(tmp_path)) < 8 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = items(tmp_path)
    _, captions = captioned(Warehouse(tmp_path), folder)
    assert 8 <= len(before) < CLIPS, "the run was to be killed half-way"
    assert before <= items(tmp_path)
    assert len(items(tmp_path)) == captions.rows == CLIPS
