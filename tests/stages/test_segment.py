"""Segment: clips cover a video exactly."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrl.config import IngestSettings, SegmentSettings
from longrl.data.ingest import ingest
from longrl.data.segment import segment
from longrl.video.segment import cut
from longrl.warehouse.artifacts import Warehouse
from tests.videos import counting_frames, write_video


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
