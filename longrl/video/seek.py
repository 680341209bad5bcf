"""Frames of a film by timestamp, where each group of pictures that is needed is decoded once and the others never.

PyAV. A seek lands on a key frame at or before a time, but decoding must not go back to one it has passed: a second,
undecoded view of the file, the scout, looks where a seek would land, and the film jumps only when that is ahead.
Timestamps decide, never frame numbers, so a group that opens with frames of the one before (open GOP), an index in
decoding order or a variable rate can't shift what is returned: a landing that is too late is taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from longrl.video.crew import beat

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

NEAR = 0.5  # seconds that are decoded rather than jumped over
ROUNDING = 1e-6  # seconds by which a plan's rounded time may miss the start of the frame it means


class DamagedFrame(ValueError):
    """A frame that was decoded on the way is missing, damaged or has no timestamp; the message says which."""


def frames_at(path: str, times: Sequence[float]) -> Iterator[VideoFrame]:
    """The frame shown at each of `times` (ascending, seconds from the first frame), at its stored size and rotation.

    Shown is the last frame that starts at or before the time, so a frame may come twice. Raises `DamagedFrame`, and
    PyAV's `FFmpegError` for what can't be read at all.
    """
    import av

    with av.open(path) as film, av.open(path) as scout:
        walk = _Walk(film, scout)
        for time in times:
            yield walk.to(time)


def film_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not the cover picture of an audio file."""
    for stream in container.streams.video:
        if not stream.disposition & type(stream.disposition).attached_pic:
            return stream
    return None


class _Walk:
    """A place in a film: the frame shown there, and the one after it."""

    def __init__(self, film: InputContainer, scout: InputContainer):
        stream, scouted = film_stream(film), film_stream(scout)
        if stream is None or scouted is None or stream.time_base is None:
            raise DamagedFrame("no video stream")
        stream.codec_context.thread_count = 1
        self.film, self.stream, self.scout, self.scouted = film, stream, scout, scouted
        self.tick, self.frames = float(stream.time_base), film.decode(stream)
        first = self._next()
        if first is None:
            raise DamagedFrame("no frame could be decoded")
        self.shown, self.ahead, self.zero = first, self._next(), first.time

    def to(self, seconds: float) -> VideoFrame:
        """Go on to this many seconds after the film's first frame; the frame shown there."""
        time = self.zero + seconds + ROUNDING
        if self.ahead is not None and time - self.ahead.time > NEAR and (landing := self._landing(time)) is not None:
            self._jump(time, landing)
        while self.ahead is not None and self.ahead.time <= time:
            self.shown, self.ahead = self.ahead, self._next()
        return self.shown

    def _landing(self, time: float) -> float | None:
        """Where to seek to land on a key frame between `ahead` and `time`; None where there is none, as far as known.

        An index may go by decoding time, which is earlier, and then the landing is too late by a few frames.
        """
        import av

        assert self.ahead is not None
        target = time
        while target > self.ahead.time:
            try:
                self.scout.seek(int(target / self.tick), stream=self.scouted)
                packet = next(self.scout.demux(self.scouted))
            except (av.error.FFmpegError, StopIteration):
                return None
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is None or not packet.is_keyframe:
                return None
            start = float(stamp * packet.time_base)
            if start <= time:
                return target if start > self.ahead.time else None
            target -= 2 * (start - time) + NEAR
        return None

    def _jump(self, time: float, target: float) -> None:
        """Put `ahead` on a key frame at or before `time`, by a seek to `target` or, if need be, to earlier ones."""
        step = NEAR
        while True:
            self.film.seek(int(target / self.tick), stream=self.stream)
            self.frames = self.film.decode(self.stream)
            self.ahead = self._next_key()
            if self.ahead is not None and self.ahead.time <= time:
                return
            if target <= self.zero:
                raise DamagedFrame(f"no key frame can be found before {time - self.zero:.3f} s")
            target, step = max(target - step, self.zero), 2 * step

    def _next_key(self) -> VideoFrame | None:
        """The first key frame after a seek; what comes before it refers to frames that were jumped over."""
        while (frame := self._next(trusted=False)) is not None and not frame.key_frame:
            pass
        if frame is not None and frame.is_corrupt:
            raise DamagedFrame(f"the frame at {frame.time - self.zero:.3f} s is corrupt")
        return frame

    def _next(self, trusted: bool = True) -> VideoFrame | None:
        """The next frame in the order of time; None at the end. An untrusted one may be corrupt."""
        beat()
        frame = next(self.frames, None)
        if frame is None:
            return None
        if frame.time is None:
            raise DamagedFrame("frames carry no timestamps; convert the file to mp4 or mkv")
        if trusted and frame.is_corrupt:
            raise DamagedFrame(f"the frame at {frame.time:.3f} s of the file is corrupt")
        return frame
