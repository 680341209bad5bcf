"""The sound track of a file: any span of it as mono samples at 16 kHz, and its log-mel spectrogram.

As frames are, sound is decoded in a worker process (`longrl.video.crew`), and the cache keeps what was decoded. Time
counts from the first frame of the film, so a plan's frames and its sound lie on one clock; in a file of sound alone it
counts from the first sample.

A track is always decoded from its beginning: audio codecs overlap their blocks and the resampler has a memory, so only
then has a span the same samples, bit by bit, whatever else is read. Where a track begins late, pauses or ends before
the span there is silence; one that is missing, damaged or cut short is an error, never silence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longrl.video.crew import beat
from longrl.video.decode import DecodeError, decode_apart
from longrl.video.sample import SAMPLES
from longrl.video.seek import film_stream

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer

RATE = 16_000  # samples a second
PAUSE = 0.05  # seconds between the blocks of a track that are a pause; less is rounding of the container's clock
MISSING = 0.02  # a track is cut short when this share of its promised length, and
MISSING_SECONDS = 0.5  # this many seconds, can't be decoded

Span = tuple[float, float]


class SoundError(DecodeError):
    """A sound track is missing or can't be read; the message names the file, the reason and the remedy."""


def read_sound(path: str | Path, span: Span) -> np.ndarray:
    """The samples of a span (start, end), seconds: float32 (`samples(span)`,), mono, 16 kHz, within about [-1, 1].

    Raises `SoundError`.
    """
    return decode_apart(_read, (str(path), span))


def samples(span: Span) -> int:
    """The number of samples in a span; spans that follow each other share none and leave none out.

    >>> samples((0.0, 2.5)), samples((0.1, 0.2)) + samples((0.2, 0.3)) == samples((0.1, 0.3))
    (40000, True)
    """
    return round(span[1] * RATE) - round(span[0] * RATE)


class SoundCache:
    """Decoded sound on disk, one memory-mapped .npy per (video, span); safe for any number of processes."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def get(self, video_id: str, path: str | Path, span: Span) -> np.ndarray:
        """The span's samples, float32, read-only and memory-mapped; decoded on the first call. Raises `SoundError`."""
        name = hashlib.sha256(json.dumps([SAMPLES, *span]).encode()).hexdigest()[:16]
        file = self.folder / video_id[:2] / f"{video_id}-sound-{name}.npy"
        if not file.exists():
            decode_apart(_store, (str(path), (span, file)))
        return np.load(file, mmap_mode="r")


def log_mel(extractor: Any, sound: np.ndarray) -> np.ndarray:
    """The log-mel spectrogram, float32 (bins, ceil(samples / hop)), that Qwen2.5-Omni's processor makes of a sound.

    `extractor` is a `WhisperFeatureExtractor`; `sound` float32 (samples,). The processor pads every sound to
    `chunk_length` seconds (300) and cuts off what is longer; here only the silence is added that the last frame looks
    into, which makes the same numbers, and a longer sound goes through the extractor in pieces of that length.
    """
    if sound.ndim != 1 or not len(sound):
        raise ValueError(f"a sound must be samples in one row, at least one, not {sound.shape}")
    hop, pieces = extractor.hop_length, []
    for start in range(0, len(sound), extractor.n_samples):
        piece = np.asarray(sound[start : start + extractor.n_samples], np.float32)
        frames = -(-len(piece) // hop)
        whole = min(frames * hop + 2 * extractor.n_fft, extractor.n_samples)
        made = extractor(
            np.pad(piece, (0, whole - len(piece))), sampling_rate=RATE, padding="do_not_pad", return_tensors="np"
        )
        pieces.append(made["input_features"][0][:, :frames])
    return np.concatenate(pieces, 1)


def _read(job: tuple[str, Span]) -> np.ndarray:
    """Decode a span in this process."""
    import av

    path, span = job
    av.logging.set_level(av.logging.PANIC)
    first, sound = round(span[0] * RATE), np.zeros(samples(span), np.float32)
    try:
        with av.open(path) as film:
            for place, block in _blocks(film, _zero(path), span[1]):
                left, right = max(place, first), min(place + len(block), first + len(sound))
                if left < right:
                    sound[left - first : right - first] = block[left - place : right - place]
    except (av.error.FFmpegError, _Damaged) as error:
        name = Path(path).name
        if isinstance(error, _Missing):
            remedy = "leave it out, or do without sound (caption.listen=false, frames.audio=false)"
            raise SoundError(f"{name} has {error}; {remedy}") from error
        reason = str(error).split("] ")[-1]
        raise SoundError(
            f"the sound track of {name} is broken: {reason}; encode it again (ffmpeg -i in -c:v copy -c:a aac out), "
            "or leave the file out"
        ) from error
    return sound


class _Damaged(ValueError):
    """Something in a track can't be decoded."""


class _Missing(_Damaged):
    """There is no track, or nothing in it."""


def _zero(path: str) -> float | None:
    """When the first frame of the film is shown, seconds of the container's clock; None in a file of sound alone."""
    import av

    with av.open(path) as film:
        if (stream := film_stream(film)) is None:
            return None
        stream.codec_context.thread_count = 1
        return next((frame.time for frame in film.decode(stream) if frame.time is not None), 0.0)


def _blocks(film: InputContainer, zero: float | None, end: float) -> Iterator[tuple[int, np.ndarray]]:
    """The track up to `end` (seconds) in pieces: where each begins, in samples from `zero`, and float32 (n,)."""
    import av

    if not film.streams.audio:
        raise _Missing("no sound track")
    stream = film.streams.audio[0]
    stream.codec_context.thread_count = 1
    resampler, place, expected, origin = None, 0, 0.0, zero or 0.0
    for frame in _frames(film, stream):
        time = float(frame.time)
        if resampler is None and zero is None:
            origin = time
        if resampler is None or abs(time - expected) > PAUSE:
            if resampler is not None:
                yield place, _mono(resampler.resample(None))
            resampler, place = av.AudioResampler("fltp", rate=RATE), round((time - origin) * RATE)
        expected = time + frame.samples / frame.sample_rate
        made = _mono(resampler.resample(frame))
        yield place, made
        place += len(made)
        if expected - origin > end + PAUSE:
            return
    if resampler is None:
        raise _Missing("a sound track in which nothing can be heard: not one sample could be decoded")
    yield place, _mono(resampler.resample(None))
    _check_whole(stream, expected, origin, end)


def _mono(blocks: Sequence[AudioFrame]) -> np.ndarray:
    """Planar blocks as one channel, the mean of all: FFmpeg's own mix of two would be louder than either."""
    return np.concatenate([block.to_ndarray().mean(0) for block in blocks] or [np.zeros(0, np.float32)])


def _frames(film: InputContainer, stream: Any) -> Iterator[Any]:
    """Decoded blocks in the order of time. Raises `_Damaged` at the first packet that can't be decoded."""
    import av

    time = 0.0
    for packet in film.demux(stream):
        beat()
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            raise _Damaged(f"what follows {time:.2f} s can't be decoded ({error.strerror})") from error
        for frame in frames:
            if frame.time is None:
                raise _Damaged("it carries no timestamps")
            time = frame.time
            if frame.is_corrupt:
                raise _Damaged(f"the sound at {time:.2f} s is corrupt")
            yield frame


def _check_whole(stream: Any, found: float, zero: float, end: float) -> None:
    """Raise `_Damaged` when the header promises more of the span than there is."""
    if not stream.duration:
        return
    promised = float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    if min(promised, zero + end) - found > max(MISSING_SECONDS, MISSING * promised):
        raise _Damaged(f"the header promises {promised:.1f} s, only {found:.1f} s can be decoded")


def _store(job: tuple[str, tuple[Span, Path]]) -> None:
    """Decode a span into its file, which appears whole or not at all."""
    path, (span, file) = job
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with partial.open("wb") as target:
            np.save(target, _read((path, span)))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
