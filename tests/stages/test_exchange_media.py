"""Questions about images, and about nothing: in from other people's files, and out again."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from longrl.config import FrameSettings, ImportSettings
from longrl.data.exchange.exporting import export_dataset
from longrl.data.exchange.importing import import_dataset, no_videos, shows_videos
from longrl.data.exchange.records import ExchangeError
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.views import views_of

CHAIN = "<think>It is written there.</think><answer>{}</answer>"


@pytest.fixture
def folder(tmp_path):
    """LLaVA rows on one image, on two, and on none, beside their images."""
    folder = tmp_path / "set"
    (folder / "pictures").mkdir(parents=True)
    for name, colour, size in (("red.png", "red", (60, 50)), ("blue.jpg", "blue", (640, 480))):
        Image.new("RGB", size, colour).save(folder / "pictures" / name)
    rows = [
        {"image": "pictures/red.png", "words": "<image>\nWhich colour?\nA. red\nB. blue", "answer": "A"},
        {
            "image": ["pictures/red.png", "pictures/blue.jpg"],
            "words": "<image>\n<image>\nWhat differs?",
            "answer": "hue",
        },
        {"words": "What is 2 + 2?\nA. 3\nB. 4", "answer": "B"},
        {"words": "What is 2 + 3?\nA. 5\nB. 4", "answer": "A"},
    ]
    written = []
    for row in rows:
        turns = [("human", row["words"]), ("gpt", CHAIN.format(row["answer"]))]
        shown = {"image": row["image"]} if "image" in row else {}
        written.append(shown | {"conversations": [{"from": who, "value": words} for who, words in turns]})
    (folder / "sft.json").write_text(json.dumps(written))
    return folder


def taken(folder, warehouse, form="llava"):
    return import_dataset(ImportSettings(path=str(folder), format=form), no_videos(warehouse), warehouse)


def test_images_and_texts_are_rows_of_the_dataset(folder, warehouse):
    assert not shows_videos(ImportSettings(path=str(folder), format="llava"))
    dataset = taken(folder, warehouse)
    assert dataset.rejected().is_empty()
    table = dataset.table()
    assert table["category"].to_list() == ["general"] * 4
    assert table["question"].to_list() == ["Which colour?", "What differs?", "What is 2 + 2?", "What is 2 + 3?"]
    assert [[one["kind"] for one in media] for media in table["media"]] == [["image"], ["image", "image"], [], []]
    first = table["media"][0][0]
    assert (first["width"], first["height"], len(first["media_id"])) == (60, 50, 64)
    assert table["video_id"].n_unique() == 4  # questions on text stand alone


@pytest.mark.parametrize("form", ["llava", "video-r1", "huggingface"])
def test_a_round_trip_with_images_is_exact(folder, warehouse, form, tmp_path):
    dataset = taken(folder, warehouse)
    out = export_dataset(dataset, form, tmp_path / "out", warehouse)
    back = taken(out, warehouse, form)
    assert back.rejected().is_empty()
    assert back.table().equals(dataset.table())


def test_a_format_of_videos_says_that_it_holds_no_images(folder, warehouse, tmp_path):
    with pytest.raises(ExchangeError, match="shows no video, and longvideo-reason has videos only"):
        export_dataset(taken(folder, warehouse), "longvideo-reason", tmp_path / "out", warehouse)


def test_an_image_that_is_not_there_or_broken_is_a_reject(folder, warehouse):
    (folder / "pictures" / "red.png").write_bytes(b"no image")
    (folder / "pictures" / "blue.jpg").unlink()
    rejected = taken(folder, warehouse).rejected()
    assert rejected["rule"].to_list() == ["image", "image"]
    assert all("red.png can't be read" in reason for reason in rejected["reason"])


def test_images_are_seen_upright_and_no_larger_than_set(folder, warehouse, tmp_path):
    frames = FrameSettings(image_pixels=2000)
    row = taken(folder, warehouse).table().row(1, named=True)
    views = views_of(row, {}, frames, 32)
    assert [(view.plan.height, view.plan.width, view.kind) for view in views] == [(28, 56, "image"), (28, 56, "image")]
    cache = FrameCache(tmp_path / "frames")
    red, blue = (cache.get(view.video_id, view.path, view.plan) for view in views)
    assert (red.shape, blue.shape) == ((1, 28, 56, 3), (1, 28, 56, 3))
    assert np.array_equal(red[0, 0, 0], [255, 0, 0])
    assert blue[0, 0, 0, 2] > 250
    (folder / "pictures" / "red.png").write_bytes(b"no image")
    with pytest.raises(DecodeError, match="cannot identify image file"):
        FrameCache(tmp_path / "other").get(views[0].video_id, views[0].path, views[0].plan)


def test_a_video_and_images_in_one_question_are_refused(folder, warehouse):
    rows = json.loads((folder / "sft.json").read_text())
    rows[0]["video"] = "film.mp4"
    (folder / "sft.json").write_text(json.dumps(rows))
    [reason] = taken(folder, warehouse).rejected().filter(pl.col("rule") == "row")["reason"]
    assert "shows a video and images" in reason
