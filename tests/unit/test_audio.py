"""The sound track: exact spans on the frames' clock, the processor's own spectrogram, clear errors for what lacks."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from longrl.video.audio import RATE, SoundCache, SoundError, log_mel, read_sound, samples
from longrl.video.decode import DecodeError
from longrl.video.sample import FramePlan, plan_frames
from tests.videos import counting_frames, truncate, write_video


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone that becomes higher and louder, float32 (n,): every moment of it is unlike any other."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.1 * (1 + time / seconds) * np.sin(2 * np.pi * (200 + 100 * time) * time)).astype(np.float32)


def write_track(path, sound, rate=RATE, codec="pcm_s16le", channels=1, starts=0.0, film=None, blocks=1024):
    """A file with this sound, which begins at `starts` seconds; beside frames `film`, 10 a second, where given."""
    with av.open(
        str(path), "w", options={"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    ) as container:
        video = None if film is None else container.add_stream("libx264", rate=10)
        stream = container.add_stream(codec, rate=rate, layout="stereo" if channels == 2 else "mono")
        if video is not None:
            video.height, video.width, video.pix_fmt = *film.shape[1:3], "yuv420p"
            for picture in film:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        form = stream.codec_context.format.name
        values = sound if "flt" in form else (sound * 32767).round().astype(np.int16)
        for first in range(0, len(sound), blocks):
            block = values[None, first : first + blocks]
            block = np.repeat(block, channels, 0)
            block = block if form.endswith("p") else block.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=form, layout=stream.layout.name)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + round(starts * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_span_has_exactly_its_samples_and_they_are_those_that_were_recorded(tmp_path):
    sound = tone(3.0)
    path = write_track(tmp_path / "a.wav", sound)
    whole = read_sound(path, (0.0, 3.0))
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, sound, atol=1e-4)
    part = read_sound(path, (0.5, 1.25))
    assert len(part) == samples((0.5, 1.25)) == 12000
    np.testing.assert_array_equal(part, whole[8000:20000])
    np.testing.assert_array_equal(read_sound(path, (2.5, 4.0))[8000:], np.zeros(16000))


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (8000, 1), (48000, 1)])
def test_any_rate_and_number_of_channels_becomes_mono_at_16_khz(tmp_path, rate, channels):
    path = write_track(tmp_path / "a.wav", tone(2.0, rate), rate, channels=channels)
    heard, wanted = read_sound(path, (0.0, 2.0)), tone(2.0)
    assert np.corrcoef(heard[100:-100], wanted[100:-100])[0, 1] > 0.9999
    assert np.abs(heard).max() == pytest.approx(np.abs(wanted).max(), abs=0.01)


def test_sound_lies_on_the_clock_of_the_frames(tmp_path):
    click = np.zeros(RATE * 2, np.float32)
    click[RATE // 2 : RATE // 2 + 400] = 0.5
    late = write_track(tmp_path / "late.mkv", click, starts=1.0, film=counting_frames(40))
    heard = read_sound(late, (0.0, 4.0))
    assert np.flatnonzero(np.abs(heard) > 0.25)[0] == pytest.approx(1.5 * RATE, abs=0.002 * RATE)
    assert not heard[:RATE].any()
    coded = write_track(tmp_path / "coded.mp4", click, codec="aac", film=counting_frames(30))
    assert np.flatnonzero(np.abs(read_sound(coded, (0.0, 2.0))) > 0.25)[0] == pytest.approx(0.5 * RATE, abs=48)


def test_a_video_without_sound_says_so_and_what_to_do(tmp_path):
    path = write_video(tmp_path / "mute.mp4", counting_frames(10))
    with pytest.raises(SoundError, match=r"mute\.mp4 has no sound track; leave it out, or do without sound"):
        read_sound(path, (0.0, 1.0))
    assert issubclass(SoundError, DecodeError)


def test_broken_tracks_are_errors_and_never_silence(tmp_path):
    whole = write_track(tmp_path / "whole.mp4", tone(20.0), codec="aac")
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(SoundError, match=r"sound track of damaged\.mp4 is broken: .* encode it again"):
        read_sound(tmp_path / "damaged.mp4", (0.0, 20.0))
    assert len(read_sound(tmp_path / "damaged.mp4", (0.0, 2.0))) == 2 * RATE  # nothing before the damage is lost
    short = truncate(write_track(tmp_path / "short.mov", tone(20.0)))
    with pytest.raises(SoundError, match=r"short\.mov is broken: the header promises 20\.0 s, only \d+\.\d s"):
        read_sound(short, (0.0, 20.0))
    assert read_sound(short, (0.0, 5.0)).any()
    (tmp_path / "text.wav").write_text("no sound at all" * 100)
    with pytest.raises(SoundError, match=r"text\.wav is broken"):
        read_sound(tmp_path / "text.wav", (0.0, 1.0))


def test_the_cache_decodes_a_span_once(tmp_path):
    path = write_track(tmp_path / "a.wav", tone(1.0))
    cache = SoundCache(tmp_path / "cache")
    first = cache.get("f" * 64, path, (0.0, 1.0))
    path.unlink()
    np.testing.assert_array_equal(cache.get("f" * 64, path, (0.0, 1.0)), first)
    with pytest.raises(DecodeError, match="the file is gone"):
        cache.get("f" * 64, path, (0.0, 0.5))


@pytest.mark.parametrize("length", [400, 12345, 5 * RATE, 300 * RATE - 100])
def test_the_spectrogram_is_the_processors_own(length):
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    sound = np.random.default_rng(0).normal(0, 0.1, length).astype(np.float32)
    theirs = extractor(
        sound, sampling_rate=RATE, padding="max_length", return_attention_mask=True, return_tensors="np"
    )  # as Qwen2_5OmniProcessor calls it
    frames = int(theirs["attention_mask"].sum())
    mel = log_mel(extractor, sound)
    assert mel.shape == (128, frames)
    np.testing.assert_allclose(mel, theirs["input_features"][0][:, :frames], atol=1e-5)


def test_sound_longer_than_the_processor_takes_goes_on_where_it_cuts_off():
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    sound = tone(5.0)
    mel = log_mel(extractor, sound)
    assert mel.shape == (16, 500)
    np.testing.assert_array_equal(mel[:, 400:], log_mel(extractor, sound[4 * RATE :]))


def test_plans_without_sound_keep_their_digests_and_sound_changes_them():
    silent, heard = plan_frames(8.0, 4, 56, 56), plan_frames(8.0, 4, 56, 56, audio="beside")
    assert silent.digest == "998c619cabb6e555"  # as before plans could hold sound: caches and logs stay good
    assert heard.audio == (0.0, 8.0)
    assert len({silent.digest, heard.digest, FramePlan(silent.times, 56, 56, (0.0, 7.0)).digest}) == 3
    assert heard.pictures == silent
    assert plan_frames(8.0, 4, 56, 56, audio="alone") == FramePlan((), 0, 0, (0.0, 8.0))
    assert FramePlan((), 0, 0, (0.0, 8.0)).digest not in {silent.digest, heard.digest}
    with pytest.raises(ValueError, match="a span of sound"):
        FramePlan(silent.times, 56, 56, (2.0, 2.0))
