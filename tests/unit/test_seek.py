"""Frames by timestamp are those an independent decoder shows then, in every awkward kind of file."""

import json
import os
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest

from longrl.video.decode import DecodeError, read_frames
from longrl.video.sample import FramePlan
from longrl.video.seek import frames_at
from tests.videos import damage_packet, noisy_frames, numbered_frames, write_video

OPEN = "open-gop=1:bframes=3:b-adapt=0:scenecut=0"
UNEVEN = list(accumulate(np.random.default_rng(3).choice([0.02, 0.04, 0.1, 0.5], 200).tolist(), initial=0.0))[:200]
FILES = {
    "constant.mp4": {},
    "one_group.mp4": {"group": 250},
    "short_groups.mp4": {"group": 5},
    "open_groups.mp4": {"x264": OPEN, "group": 25},
    "open_groups.mkv": {"x264": OPEN, "group": 25},
    "open_groups_hevc.mp4": {"codec": "libx265", "group": 25},
    "b_pyramid.mp4": {"x264": "b-pyramid=normal:b-adapt=0:bframes=8:ref=8", "group": 30},
    "intra_refresh.mp4": {"x264": "intra-refresh=1", "group": 25},
    "variable.mp4": {"times": UNEVEN, "group": 20},
    "variable.mkv": {"times": UNEVEN, "group": 20},
    "late_start.mp4": {"times": [5 + index / 25 for index in range(200)]},
    "late_start.mkv": {"times": [5 + index / 25 for index in range(200)]},
    "no_index.mkv": {"options": {"live": "1"}, "group": 25},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}, "group": 25},
    "stream.ts": {"group": 25},
    "mpeg4.avi": {"codec": "mpeg4", "group": 12},
    "vp9.webm": {"codec": "libvpx-vp9", "group": 25},
    "av1.mp4": {"codec": "libsvtav1", "group": 25},
}


def plain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Start times in seconds and frames, uint8 (T, H, W, 3), of a whole file decoded from front to back by PyAV."""
    with av.open(str(path)) as container:
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    times, frames = zip(*decoded, strict=True)
    return np.array(times) - times[0], np.stack(frames)


def plans(starts: np.ndarray) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    return {
        "sparse": sorted(rng.uniform(0, starts[-1], 9)),
        "dense": sorted(rng.uniform(0, starts[-1], 150)),
        "on the frames": [*starts[::7], starts[-1] + 3],
        "just before them": [max(0.0, start - 0.001) for start in starts[::7]],
    }


@pytest.mark.parametrize("name", FILES)
def test_frames_are_exactly_those_of_a_whole_decode(tmp_path, name):
    path = write_video(tmp_path / name, numbered_frames(200), fps=25, **FILES[name])
    starts, frames = plain(path)
    assert len(starts) == 200
    for kind, times in plans(starts).items():
        plan = FramePlan(tuple(map(float, times)), *frames.shape[1:3])
        shown = np.searchsorted(starts, np.array(times) + 1e-6, side="right") - 1
        assert np.array_equal(read_frames(path, plan), frames[shown]), kind


@pytest.mark.parametrize("size", [(63, 97), (64, 97), (63, 96)])
def test_odd_sizes(tmp_path, size):
    path = write_video(tmp_path / "odd.mkv", numbered_frames(50, *size), fps=25, pixels="yuv444p")
    starts, frames = plain(path)
    plan = FramePlan(tuple(map(float, starts[::9])), *size)
    assert np.array_equal(read_frames(path, plan), frames[::9])


def test_a_sparse_plan_leaves_most_of_a_film_alone(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered_frames(1000), fps=25, group=10)
    decoded = []
    monkeypatch.setattr("longrl.video.seek.beat", lambda: decoded.append(1))
    list(frames_at(str(path), [0.0, 15.0, 15.1, 30.0]))
    assert len(decoded) < 40


def test_each_group_of_pictures_is_decoded_once(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered_frames(1000), fps=25, group=100)
    decoded = []
    monkeypatch.setattr("longrl.video.seek.beat", lambda: decoded.append(1))
    list(frames_at(str(path), [index * 0.9 for index in range(44)]))
    assert len(decoded) <= 1001


def test_damage_in_a_group_that_is_not_needed_does_no_harm(tmp_path):
    path = damage_packet(write_video(tmp_path / "a.mp4", noisy_frames(60), group=10), 25)
    read_frames(path, FramePlan((0.0, 0.5, 5.5), 32, 56))
    with pytest.raises(DecodeError):
        read_frames(path, FramePlan((0.0, *(index / 10 for index in range(20, 30)), 5.5), 32, 56))


TORCHCODEC = """
import json, sys, numpy
from torchcodec.decoders import VideoDecoder
for path, times in json.loads(sys.argv[1]).items():
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    start = decoder.metadata.begin_stream_seconds
    numpy.save(path + ".npy", decoder.get_frames_played_at([start + time for time in times]).data.numpy())
"""


def test_torchcodec_sees_the_same(tmp_path):
    from benchmarks.decode import ffmpeg_for_torchcodec

    wanted = {}
    for name in ("open_groups.mp4", "variable.mkv", "late_start.mkv", "one_group.mp4"):
        path = write_video(tmp_path / name, numbered_frames(200), fps=25, **FILES[name])
        wanted[str(path)] = (plain(path)[0][3:-1:17] + 0.005).tolist()
    environment = os.environ | {"LD_LIBRARY_PATH": ffmpeg_for_torchcodec(tmp_path / "lib")}
    command = [sys.executable, "-c", TORCHCODEC, json.dumps(wanted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "Could not load libtorchcodec" in done.stderr:
        pytest.skip("no FFmpeg that torchcodec can load")
    assert done.returncode == 0, done.stderr
    for path, times in wanted.items():
        theirs = np.load(path + ".npy").astype(int)
        ours = read_frames(path, FramePlan(tuple(times), *theirs.shape[1:3]))
        assert np.abs(ours - theirs).max() <= 3, path  # its own conversion to RGB
