"""Stories: the same seed gives the same bytes, the truth is what the pixels show, and files are whole or absent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from longrl.video import stories
from longrl.video.stories import AGENTS, SIZE, make_story, render_frames, write_corpus, write_film, write_truth

av = pytest.importorskip("av")


def decoded(path):
    """All frames, uint8 (T, H, W, 3), decoded by PyAV."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_story_follows_from_its_seed_and_differs_from_the_next():
    assert make_story(5) == make_story(5)
    assert len({repr(make_story(seed).scenes) for seed in range(50)}) == 50


@pytest.mark.parametrize("scenes", [4, 6])
def test_scenes_are_consistent(scenes):
    for seed in range(100):
        story = make_story(seed, scenes)
        assert sorted(story.layout.values()) == sorted(stories.PLACES)
        assert len({scene.actor for scene in story.scenes}) == scenes
        for index, scene in enumerate(story.scenes):
            assert story.layout[scene.corner] == scene.place
            assert scene.start == index * 10 < scene.appears < scene.arrives < scene.leaves < scene.end


def test_the_agent_is_drawn_where_and_when_the_truth_says():
    for seed in range(20):
        for scene in make_story(seed).scenes:
            before, staying, after = render_frames(
                make_story(seed), np.array([scene.appears - 0.05, scene.leaves - 0.1, scene.leaves + 0.01])
            )
            seen = (staying == AGENTS[scene.actor]).all(-1)
            rows, columns = np.nonzero(seen)
            north, west = rows.mean() < SIZE / 2, columns.mean() < SIZE / 2
            assert scene.corner == ("north" if north else "south") + ("west" if west else "east")
            assert seen.sum() > 150
            assert not (before == AGENTS[scene.actor]).all(-1).any()
            assert not (after == AGENTS[scene.actor]).all(-1).any()


def test_a_film_is_forty_seconds_of_h264_close_to_what_was_rendered(tmp_path):
    story = make_story(3)
    write_film(tmp_path / "film.mp4", story)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", SIZE, SIZE)
        assert stream.average_rate == stories.FPS
    frames = decoded(tmp_path / "film.mp4")
    rendered = render_frames(story, (np.arange(160) + 0.5) / stories.FPS)
    assert frames.shape == rendered.shape == (160, SIZE, SIZE, 3)
    assert np.abs(frames.astype(int) - rendered).mean() < 4


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(tmp_path):
    one = write_corpus(tmp_path / "one", 40, 3)
    two = write_corpus(tmp_path / "two", 40, 3, workers=2)
    assert [path.name for path in one] == ["story-0000040.mp4", "story-0000041.mp4", "story-0000042.mp4"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_films_already_there_are_left_alone_and_nothing_else_is_in_the_folder(tmp_path):
    first = write_corpus(tmp_path, 0, 2)
    times = [path.stat().st_mtime_ns for path in first]
    both = write_corpus(tmp_path, 0, 3)
    assert [path.stat().st_mtime_ns for path in both[:2]] == times
    assert sorted(tmp_path.iterdir()) == sorted(both)


def test_the_truth_is_written_where_it_is_told_and_nowhere_else(tmp_path):
    films = write_corpus(tmp_path / "corpus", 7, 1)
    write_truth(tmp_path / "truth.json", 7, 1)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert list(truth) == [films[0].name]
    assert truth[films[0].name]["scenes"][0]["actor"] == make_story(7).scenes[0].actor
    assert list((tmp_path / "corpus").iterdir()) == films


def test_a_story_with_sound_looks_the_same_and_sounds_as_its_truth_says(tmp_path):
    silent, story = make_story(3), make_story(3, sound=True)
    assert story.scenes == silent.scenes
    assert silent.sounds == ()
    track = stories.render_sound(story)
    for scene, name in zip(story.scenes, story.sounds, strict=True):
        pitch, beats = stories.SOUNDS[name]
        sound = track[round(scene.appears * 16000) : round(scene.leaves * 16000)]
        assert np.abs(np.fft.rfft(sound)).argmax() * 16000 / len(sound) == pytest.approx(pitch, abs=8)
        assert (np.abs(sound) > 0.1).mean() < (0.5 if beats else 1.0)
        assert np.abs(track[round(scene.leaves * 16000) : round(scene.end * 16000)]).max() < 0.02
    write_film(tmp_path / "film.mp4", story)
    assert np.array_equal(decoded(tmp_path / "film.mp4"), decoded(write_corpus(tmp_path / "silent", 3, 1)[0]))


def test_the_same_seed_gives_the_same_bytes_with_sound_too_and_silent_truths_do_not_speak_of_it(tmp_path):
    films = [write_corpus(tmp_path / name, 40, 2, sound=True, workers=2)[0] for name in ("one", "two")]
    assert films[0].read_bytes() == films[1].read_bytes()
    for sound in (False, True):
        write_truth(tmp_path / "truth.json", 40, 1, sound=sound)
        assert ("sounds" in json.loads((tmp_path / "truth.json").read_text())["story-0000040.mp4"]) == sound
