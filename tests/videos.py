"""Real little video files for tests: good ones of every awkward kind, and broken ones."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MILLI = Fraction(1, 1000)
QUALITY = {
    "libx264": {"crf": "12", "preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "open-gop=1:bframes=3:log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: float = 10.0,
    times: list[float] | None = None,
    group: int = 10,
    audio: bool = False,
    options: dict[str, str] | None = None,
    codec: str = "libx264",
    x264: str = "",
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
) -> Path:
    """Encode uint8 (T, H, W, 3) frames, as H.264 by default; `times` in seconds makes the rate variable.

    `options` go to the container, `x264` to that encoder; `aspect` is the shape of a pixel, width by height.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.options = {"g": str(group)} | QUALITY.get(codec, {}) | ({"x264-params": x264} if x264 else {})
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = MILLI
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        sound = container.add_stream("aac", rate=8000) if audio else None
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = round((times[index] if times else index / fps) * 1000)
            frame.time_base = MILLI
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _add_silence(container, sound, len(frames) / fps)
    return path


def _add_silence(container, stream, seconds: float) -> None:
    for start in range(0, int(seconds * 8000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with a sound track and no picture."""
    with av.open(str(path), "w") as container:
        _add_silence(container, container.add_stream("aac", rate=8000), seconds)
    return path


def counting_frames(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Grey frames whose level tells their number: 16 + 6 * index. uint8 (count, height, width, 3)."""
    levels = (16 + 6 * np.arange(count)).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which of `counting_frames` these are."""
    return [round((float(frame.mean()) - 16) / 6) for frame in frames]


def numbered_frames(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames that differ, uint8 (count, height, width, 3): bars spell their number in binary, and a square moves."""
    frames = np.full((count, height, width, 3), 60, np.uint8)
    for index, frame in enumerate(frames):
        for bit in range(8):
            if index >> bit & 1:
                frame[8:40, 4 + bit * 11 : 13 + bit * 11] = 220
        left = index * 2 % (width - 16)
        frame[44:60, left : left + 16] = (200, 30, 30)
    return frames


def rotate_header(path: Path, degrees: int) -> Path:
    """Set an mp4's display matrix, as a phone held sideways does: 90, 180 or 270 degrees clockwise."""
    data = bytearray(path.read_bytes())
    turn = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (value * 0x10000 for value in turn)
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


def damage_packet(path: Path, number: int, whole: bool = True) -> Path:
    """Overwrite a packet of a video file: all of it, or only its second half (which decoders like to hide)."""
    with av.open(str(path)) as container:
        packet = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][number]
    position, size = packet
    skip = 0 if whole else size // 2
    data = bytearray(path.read_bytes())
    data[position + skip : position + size] = np.random.default_rng(0).bytes(size - skip)
    path.write_bytes(data)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file's end off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def noisy_frames(count: int, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """Frames with enough detail that every packet is large. uint8 (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def write_broken(folder: Path) -> dict[str, str]:
    """Broken files of every kind, as {name: a word of the reason they must be quarantined with}."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    write_audio(folder / "sound.mp4")
    write_video(folder / "single.mp4", counting_frames(1))
    truncate(write_video(folder / "headless.mp4", noisy_frames(20)))
    truncate(write_video(folder / "cut_short.mkv", noisy_frames(20)))
    truncate(write_video(folder / "cut_short.mp4", noisy_frames(20), options={"movflags": "faststart"}))
    damage_packet(write_video(folder / "damaged.mp4", noisy_frames(20)), 7)
    damage_packet(write_video(folder / "concealed.mp4", noisy_frames(20)), 7, whole=False)
    return {
        "empty.mp4": "empty",
        "text.mp4": "not a video",
        "sound.mp4": "audio only",
        "single.mp4": "only 1 decodable frame",
        "headless.mp4": "header is missing",
        "cut_short.mkv": "truncated",
        "cut_short.mp4": "truncated",
        "damaged.mp4": "corrupt",
        "concealed.mp4": "corrupt",
    }
