"""Segment: clips cover a video exactly, end at its cuts when asked to, and say how much moves in them."""

import sqlite3
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrl.config import ConfigError, IngestSettings, SegmentSettings, load_config
from longrl.data.ingest import ingest
from longrl.data.segment import NoClips, segment
from longrl.video.look import motion_of
from longrl.video.segment import cut, fit_scenes
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.videos import counting_frames, damage_packet, noisy_frames, write_video


@pytest.mark.parametrize(
    ("duration", "spans"),
    [
        (40.0, [(0, 10), (10, 20), (20, 30), (30, 40)]),
        (31.9, [(0, 10), (10, 20), (20, 31.9)]),
        (32.0, [(0, 10), (10, 20), (20, 30), (30, 32.0)]),
        (3.633, [(0, 3.633)]),
        (0.1, [(0, 0.1)]),
        (10.0, [(0, 10)]),
    ],
)
def test_spans(duration, spans):
    assert cut(duration, 10.0, 2.0) == spans


@given(st.floats(0.04, 5000), st.floats(0.5, 60), st.floats(0, 10))
def test_spans_cover_the_video_without_gap_or_crumb(duration, length, tail):
    spans = cut(duration, length, tail)
    assert spans[0][0] == 0
    assert spans[-1][1] == duration
    assert all(first[1] == second[0] for first, second in pairwise(spans))
    assert all(start < end for start, end in spans)
    assert len(spans) == 1 or spans[-1][1] - spans[-1][0] >= min(tail, length) - 1e-3


def test_stage_cuts_every_video(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    write_video(tmp_path / "videos" / "a.mp4", counting_frames(25))
    write_video(tmp_path / "videos" / "b.mp4", counting_frames(5))
    videos = ingest(IngestSettings(), tmp_path / "videos", warehouse)
    clips = segment(SegmentSettings(clip_seconds=1.0, minimum_tail=0.2), videos, warehouse).table()
    assert sorted(clips["end"].to_list()) == pytest.approx([0.5, 1.0, 2.0, 2.5])
    assert clips["clip_id"].n_unique() == 4


def test_fixed_clips_have_the_bytes_they_always_had(tmp_path):
    """Captions and all that follows are kept across versions: no look at the video, no motion, the same ids."""
    warehouse = Warehouse(tmp_path / "warehouse")
    videos = ingested(warehouse, tmp_path / "videos", {"a.mp4": counting_frames(25)})
    table = segment(SegmentSettings(clip_seconds=1.0, minimum_tail=0.2), videos, warehouse).table()
    assert table["motion"].null_count() == table.height == 3
    assert not ledger_items(warehouse)


@given(
    st.lists(st.floats(0, 300), max_size=60), st.floats(0.04, 300), st.floats(0.2, 5), st.floats(2, 4),
)  # fmt: skip
def test_scenes_cover_the_video_and_keep_to_their_lengths(cuts, duration, shortest, ratio):
    longest = shortest * ratio
    spans = fit_scenes(cuts, duration, shortest, longest)
    assert spans[0][0] == 0
    assert spans[-1][1] == duration
    assert all(first[1] == second[0] for first, second in pairwise(spans))
    lengths = [end - start for start, end in spans]
    assert max(lengths) <= longest + 1e-4
    assert min(lengths) >= min(shortest, duration) - 1e-4


@pytest.mark.parametrize(
    ("cuts", "duration", "spans"),
    [
        ([], 1.5, [(0, 1.5)]),
        ([3.0, 7.0], 12.0, [(0, 3), (3, 7), (7, 12)]),
        ([3.0, 4.0], 9.0, [(0, 4), (4, 9)]),
        ([1.0], 9.0, [(0, 9)]),
        ([8.5], 9.0, [(0, 9)]),
        ([4.0], 16.0, [(0, 4), (4, 10), (10, 16)]),
        ([2.5, 3.0, 3.5, 4.0, 4.5], 9.0, [(0, 4.5), (4.5, 9)]),
    ],
)
def test_scenes_are_merged_and_split(cuts, duration, spans):
    assert fit_scenes(cuts, duration, 2.0, 10.0) == spans


def test_a_longest_clip_that_can_not_be_split_is_a_config_error():
    with pytest.raises(ConfigError, match=r"segment.longest must be at least twice segment.shortest"):
        load_config("tiny", {"segment.shortest": 6})


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_clips_end_at_the_cuts_of_a_rendered_film(tmp_path, detector):
    warehouse = Warehouse(tmp_path / "warehouse")
    film = scenes([3.0, 4.0, 1.0, 5.0, 12.0])  # the third is too short, the last too long
    videos = ingested(warehouse, tmp_path / "videos", {"film.mp4": film, "still.mp4": counting_frames(40) * 0 + 90})
    made = segment(SegmentSettings(mode="scene", detector=detector), videos, warehouse)
    spans = {path: spans_of(made, videos, path) for path in ("film.mp4", "still.mp4")}
    assert spans["film.mp4"] == [(0, 3), (3, 8), (8, 13), (13, 19), (19, 25)]
    assert spans["still.mp4"] == [(0, 4)]
    assert made.rejects == 0


def test_a_threshold_nothing_reaches_finds_no_cut(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    videos = ingested(warehouse, tmp_path / "videos", {"film.mp4": scenes([3.0, 4.0])})
    settings = SegmentSettings(mode="scene", detector="content", threshold=255.0)
    assert segment(settings, videos, warehouse).rows == 1


def test_motion_is_the_mean_change_of_a_pixel_per_second(tmp_path):
    """The first film brightens by 6 levels a frame at 10 frames a second, then stands still; the second never moves."""
    warehouse = Warehouse(tmp_path / "warehouse")
    brightening = np.concatenate([counting_frames(20), np.repeat(counting_frames(20)[-1:], 20, axis=0)])
    videos = ingested(
        warehouse, tmp_path / "videos", {"a.mp4": brightening, "still.mp4": np.repeat(noisy_frames(1), 20, 0)}
    )
    settings = SegmentSettings(clip_seconds=2.0, motion="score_only", frames_per_second=10.0)
    made = segment(settings, videos, warehouse)
    scores = dict(
        made.table().join(videos.table(), on="video_id").select("path", "motion").group_by("path").all().rows()
    )
    assert scores[str(tmp_path / "videos" / "a.mp4")] == pytest.approx([60.0, 0.0], abs=1.0)
    assert scores[str(tmp_path / "videos" / "still.mp4")] == pytest.approx([0.0], abs=1.0)
    assert (made.rows, made.rejects) == (3, 0)


def test_half_a_picture_that_moves_scores_half():
    changes = np.abs(np.diff(np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]), axis=0)).mean(1)
    assert motion_of([(0.0, 1.0)], changes, 5.0) == [25.0]


def test_clips_that_move_too_little_are_rejects_and_the_others_are_numbered_without_gaps(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    still = np.repeat(counting_frames(20)[-1:], 20, axis=0)
    videos = ingested(
        warehouse, tmp_path / "videos", {"a.mp4": np.concatenate([counting_frames(20), still, noisy_frames(20)])}
    )
    score, drop = (SegmentSettings(clip_seconds=2.0, motion=motion) for motion in ("score_only", "enable"))
    scored, made = segment(score, videos, warehouse), segment(drop, videos, warehouse)
    assert made.table().select("index", "start", "end").rows() == [(0, 0.0, 2.0), (1, 4.0, 6.0)]
    (reject,) = made.rejected().rows(named=True)
    assert reject["rule"] == "motion"
    assert "a.mp4 at 2-4 s" in reject["reason"]
    assert made.rows + made.rejects == scored.rows == 3
    assert {reject["item"], *made.table()["clip_id"]} == set(scored.table()["clip_id"])
    assert len(ledger_items(warehouse)) == 1  # the second run looked at nothing


def test_a_video_that_can_not_be_decoded_is_a_reject_and_the_others_go_on(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    folder = tmp_path / "videos"
    videos = ingested(
        warehouse, folder, {name: noisy_frames(20, seed=n) for n, name in enumerate(("a.mp4", "b.mp4", "c.mp4"))}
    )
    damage_packet(folder / "b.mp4", 7)
    (folder / "c.mp4").unlink()
    made = segment(SegmentSettings(motion="score_only"), videos, warehouse)
    assert made.rows == 1
    assert made.rejected()["rule"].to_list() == ["unreadable"] * 2
    reasons = " ".join(made.rejected()["reason"])
    assert "b.mp4" in reasons
    assert "c.mp4: the file is gone" in reasons


def test_no_clip_left_is_a_clear_error(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    videos = ingested(warehouse, tmp_path / "videos", {"still.mp4": np.repeat(counting_frames(1), 20, 0)})
    with pytest.raises(NoClips, match=r"all move less than 2; lower segment.minimum_motion"):
        segment(SegmentSettings(motion="enable"), videos, warehouse)


def test_a_grown_corpus_looks_only_at_the_new_video(tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    settings = SegmentSettings(mode="scene", motion="score_only")
    segment(settings, ingested(warehouse, tmp_path / "videos", {"a.mp4": counting_frames(20)}), warehouse)
    before = ledger_items(warehouse)
    grown = segment(settings, ingested(warehouse, tmp_path / "videos", {"b.mp4": noisy_frames(20)}), warehouse)
    assert grown.rows == 2
    assert before < ledger_items(warehouse)
    assert len(ledger_items(warehouse)) == 2


def ingested(warehouse: Warehouse, folder: Path, films: dict[str, np.ndarray]) -> ArtifactRef:
    """The folder with these films added (10 frames a second), as an artifact."""
    for name, frames in films.items():
        write_video(folder / name, frames)
    return ingest(IngestSettings(), folder, warehouse)


def scenes(lengths: list[float], fps: int = 10) -> np.ndarray:
    """A film of scenes of these lengths (seconds), each a chequerboard of its own colours and size."""
    parts = []
    rows, columns = np.mgrid[0:64, 0:96]
    for number, length in enumerate(lengths):
        board = (rows // (4 + 4 * number) + columns // (4 + 4 * number)) % 2
        colours = np.random.default_rng(number).integers(30, 225, (2, 3), dtype=np.uint8)
        parts.append(np.broadcast_to(colours[board], (round(length * fps), 64, 96, 3)))
    return np.concatenate(parts)


def spans_of(clips: ArtifactRef, videos: ArtifactRef, name: str) -> list[tuple[float, float]]:
    table = clips.table().join(videos.table().select("video_id", "path"), on="video_id")
    return table.filter(pl.col("path").str.ends_with(name)).sort("index").select("start", "end").rows()


def ledger_items(warehouse: Warehouse) -> set[tuple[int, str]]:
    with sqlite3.connect(warehouse.root / "segment" / "ledger.sqlite") as connection:
        return set(connection.execute("SELECT rowid, key FROM items"))
