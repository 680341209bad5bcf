"""Naming a video and finding out whether it can be used: every frame is decoded once, what is wrong is said.

A video's name is the sha256 of its bytes. Headers are not believed: the frame count, duration and rate come from the
decoded frames, and a header that promises much more than can be decoded means a truncated file.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from longrl.video.crew import beat
from longrl.video.decode import DecodeError
from longrl.video.seek import film_stream

MISSING = 0.02  # a file is truncated when this share of its promised duration, and
MISSING_SECONDS = 0.5  # this many seconds, can't be decoded
JITTER = 0.2  # frame intervals that differ by this share from the usual one make the rate variable


@dataclass(frozen=True)
class Probe:
    """What a video is. Sizes in square pixels as displayed, times in seconds; `frames` counts decodable frames."""

    container: str  # mp4, mov, matroska, webm, avi, …
    codec: str  # h264, hevc, vp9, av1, …
    duration: float
    fps: float
    frames: int
    width: int
    height: int
    rotation: int  # degrees, as stored in the file: 0, 90, 180 or 270, counter-clockwise
    variable_rate: bool
    audio: bool


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes, 64 hex digits: the video's name."""
    with Path(path).open("rb") as file:
        total = hashlib.sha256()
        while block := file.read(1 << 22):
            total.update(block)
            beat()
    return total.hexdigest()


def probe(path: str | Path, minimum_frames: int = 2) -> Probe:
    """Decode a video once, without keeping a frame.

    Raises `DecodeError` with a reason a person can act on: empty file, not a video, no video stream, corrupt packets,
    truncated, fewer than `minimum_frames` frames.
    """
    import av

    if Path(path).stat().st_size == 0:
        raise DecodeError("the file is empty (0 bytes)")
    av.logging.set_level(av.logging.PANIC)
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise DecodeError(f"not a video, or its header is missing or damaged ({error.strerror})") from error
    with container:
        stream = film_stream(container)
        if stream is None:
            raise DecodeError("no video stream (audio only)" if container.streams.audio else "no video stream")
        return _decode_all(container, stream, minimum_frames)


def probe_job(job: tuple[str, str, int]) -> dict[str, Any]:
    """`probe` for a worker process: the job is (video_id, path, minimum_frames)."""
    _, path, minimum_frames = job
    return asdict(probe(path, minimum_frames))


def _decode_all(container, stream, minimum_frames: int) -> Probe:
    import av

    times: list[float] = []
    corrupt: list[float] = []
    damaged, ends, size, turn, last_length = 0, [0.0], (0, 0), 0, 0.0
    stream.codec_context.thread_count = 1
    try:
        for packet in container.demux():
            if packet.pts is not None:
                ends.append(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                beat()
                if frame.time is None:
                    raise DecodeError("frames carry no timestamps; convert the file to mp4 or mkv")
                times.append(frame.time)
                last_length = float(frame.duration * frame.time_base) if frame.duration else 0.0
                if frame.is_corrupt:
                    corrupt.append(frame.time)
                size, turn = (frame.width, frame.height), round(frame.rotation) % 360
    except av.error.FFmpegError:  # the demuxer gives up: what follows is lost
        damaged += 1
    steps = sorted(later - earlier for earlier, later in pairwise(times))
    usual = steps[len(steps) // 2] if steps else last_length
    duration = times[-1] - times[0] + (last_length or usual) if times else 0.0
    _check_whole(container, stream, duration, max(ends))
    if damaged or corrupt:
        where = f", the first at {corrupt[0]:.2f} s" if corrupt else ""
        raise DecodeError(
            f"corrupt: {damaged} packets can't be decoded and {len(corrupt)} frames are damaged{where}; "
            f"{len(times) - len(corrupt)} frames are good"
        )
    if len(times) < minimum_frames:
        raise DecodeError(f"only {len(times)} decodable frame(s), at least {minimum_frames} are needed")
    if duration <= 0 or (steps and steps[0] <= 0):
        raise DecodeError("the frames' timestamps do not ascend; convert the file to mp4 or mkv")
    width, height = round(size[0] * float(stream.sample_aspect_ratio or 1)), size[1]
    tick = float(stream.time_base)
    rounding = tick if tick < usual / 2 else 0.0  # of times to the container's clock: 240 fps in whole milliseconds
    uneven = bool(steps) and steps[-1] - steps[0] > max(JITTER * usual, 1.01 * rounding)
    turned = turn % 180 != 0
    return Probe(
        container=_container(container),
        codec=stream.codec_context.codec.canonical_name,
        duration=round(duration, 6),
        fps=round(len(times) / duration, 6),
        frames=len(times),
        width=height if turned else width,
        height=width if turned else height,
        rotation=turn,
        variable_rate=uneven,
        audio=bool(container.streams.audio),
    )


def _container(container) -> str:
    """The container's usual name; FFmpeg has one reader for mp4 and mov, and one for matroska and webm."""
    names = container.format.name.split(",")
    if "mp4" in names:
        return "mov" if container.metadata.get("major_brand", "qt").strip() == "qt" else "mp4"
    if "webm" in names:
        with Path(container.name).open("rb") as file:
            return "webm" if b"webm" in file.read(64) else "matroska"
    return names[0]


def _check_whole(container, stream, duration: float, packets_end: float) -> None:
    """Raise `DecodeError` when the header promises more than there is."""
    for promised, found in (
        (float(stream.duration * stream.time_base) if stream.duration else 0.0, duration),
        (container.duration / 1e6 if container.duration else 0.0, packets_end),
    ):
        if promised - found > max(MISSING_SECONDS, MISSING * promised):
            raise DecodeError(f"truncated: the header promises {promised:.1f} s, only {found:.1f} s can be decoded")
