"""Frames by timestamp: the right ones, upright, and never a repeated neighbour for a broken one."""

import multiprocessing
import os

import numpy as np
import pytest

from longrl.video import crew
from longrl.video.decode import DecodeError, FrameCache, read_frames
from longrl.video.sample import FramePlan, fit, plan_frames
from tests.videos import counting_frames, damage_packet, noisy_frames, numbers_of, rotate_header, write_video


def test_plan_takes_the_centres_of_equal_spans():
    assert plan_frames(40.0, 4, 56, 56).times == (5.0, 15.0, 25.0, 35.0)
    assert plan_frames(40.0, 2, 56, 56, start=10.0, end=20.0).times == (12.5, 17.5)


def test_plan_digest_tells_times_and_size_apart():
    plans = [plan_frames(8, 4, 56, 56), plan_frames(8, 4, 56, 84), plan_frames(8, 2, 56, 56), plan_frames(9, 4, 56, 56)]
    assert len({plan.digest for plan in plans}) == 4
    assert plans[0].digest == plan_frames(8.0, 4, 56, 56).digest


def test_second_per_grid_is_two_frame_spacings():
    assert plan_frames(16.0, 8, 56, 56).second_per_grid == pytest.approx(4.0)


@pytest.mark.parametrize(("start", "end"), [(5.0, 5.0), (-1.0, 5.0), (5.0, 11.0)])
def test_plan_outside_the_video_is_an_error(start, end):
    with pytest.raises(ValueError, match="cannot take 4 frames"):
        plan_frames(10.0, 4, 56, 56, start, end)


def test_fit_keeps_the_shape():
    assert fit(1920, 1080, 112) == (64, 112)
    assert fit(1080, 1920, 112) == (112, 64)


def test_frames_are_those_shown_at_the_times(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", counting_frames(40), fps=10))
    plan = FramePlan((0.0, 0.05, 0.11, 1.95, 1.9999, 3.9, 99.0), 32, 56)
    frames = read_frames(path, plan)
    assert frames.shape == (7, 32, 56, 3)
    assert frames.dtype == np.uint8
    assert numbers_of(frames) == [0, 0, 1, 19, 19, 39, 39]


def test_variable_rate_is_sampled_by_true_timestamps(tmp_path):
    times = [0.0, 0.1, 0.2, 2.0, 2.1, 5.0, 5.1, 5.2]
    path = str(write_video(tmp_path / "phone.mp4", counting_frames(8), times=times))
    assert numbers_of(read_frames(path, FramePlan((0.15, 1.0, 1.99, 2.05, 4.0, 5.15), 32, 56))) == [1, 2, 2, 3, 4, 6]


@pytest.mark.parametrize(("degrees", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_rotated_video_comes_upright(tmp_path, degrees, corner):
    frames = np.zeros((6, 64, 96, 3), np.uint8)
    frames[:, :16, :16] = 255  # a white patch in the stored picture's upper left
    path = str(rotate_header(write_video(tmp_path / "phone.mp4", frames), degrees))
    height, width = (96, 64) if degrees != 180 else (64, 96)
    shown = read_frames(path, FramePlan((0.2,), height, width))[0].mean(-1)
    assert shown[corner] > 200
    assert (shown > 128).sum() == pytest.approx(256, abs=64)


@pytest.mark.parametrize("width", [16, 24, 28, 48, 56, 72, 84, 112])
def test_frames_of_any_width(tmp_path, width):
    path = str(write_video(tmp_path / "a.mp4", counting_frames(8)))
    frames = read_frames(path, FramePlan((0.05, 0.55), 32, width))
    assert frames.shape == (2, 32, width, 3)
    assert numbers_of(frames) == [0, 5]


def test_dense_and_sparse_plans_agree(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy_frames(60), fps=10)
    dense = read_frames(path, plan_frames(6.0, 60, 32, 56))
    sparse = read_frames(path, FramePlan(plan_frames(6.0, 60, 32, 56).times[5::17], 32, 56))
    assert np.array_equal(dense[5::17], sparse)


def test_damaged_packet_is_an_error(tmp_path):
    path = damage_packet(write_video(tmp_path / "a.mp4", noisy_frames(20)), 7)
    with pytest.raises(DecodeError, match="Invalid data"):
        read_frames(path, plan_frames(2.0, 20, 32, 56))


def test_file_that_kills_its_decoder_is_an_error_that_names_it(tmp_path, monkeypatch):
    path = write_video(tmp_path / "large.mp4", noisy_frames(60, 480, 640))
    monkeypatch.setattr(crew, "_crews", {os.getpid(): crew.Crew(1, memory=1.0)})
    for read in (read_frames, lambda path, plan: FrameCache(tmp_path / "cache").get("v1", path, plan)):
        with pytest.raises(DecodeError, match=r"large\.mp4: the decoder needs more than 1 MiB of memory"):
            read(path, plan_frames(6.0, 60, 480, 640))


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(DecodeError, match="gone"):
        read_frames(tmp_path / "a.mp4", plan_frames(2.0, 2, 32, 56))


def test_cache_gives_what_reading_gives(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy_frames(40), fps=10)
    cache = FrameCache(tmp_path / "cache")
    plans = [plan_frames(4.0, 4, 32, 56), plan_frames(4.0, 8, 32, 56), plan_frames(4.0, 4, 28, 28)]
    for plan, frames in zip(plans, cache.get_many("v1", path, plans), strict=True):
        assert isinstance(frames, np.memmap)
        assert np.array_equal(frames, read_frames(path, plan))


def test_cache_needs_the_file_only_once(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy_frames(20), fps=10)
    cache, plan = FrameCache(tmp_path / "cache"), plan_frames(2.0, 4, 32, 56)
    first = cache.get("v1", path, plan)
    path.unlink()
    assert np.array_equal(cache.get("v1", path, plan), first)


def _get(folder, path):
    FrameCache(folder).get("v1", path, plan_frames(2.0, 8, 32, 56)).sum()


def test_cache_filled_by_two_processes_at_once_is_whole(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy_frames(20), fps=10)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_get, args=(tmp_path / "cache", path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").rglob("*"))) == 2  # one folder, one file, no partial left
