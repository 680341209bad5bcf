"""Frames of a film by timestamp, where each group of pictures that is needed is decoded once and the others never.

PyAV. The container's index says where key frames are; the film jumps when one lies between the next frame and the time
wanted, and is decoded on otherwise. A container without an index costs time, nothing else. Timestamps decide, never
frame numbers, so a group that opens with frames of the one before (open GOP), an index in decoding order or a variable
rate can't shift what is returned: a landing that is too late is taken back.
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

    with av.open(path) as film:
        walk = _Walk(film, times[-1])
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

    def __init__(self, film: InputContainer, last: float):
        stream = film_stream(film)
        if stream is None or stream.time_base is None:
            raise DamagedFrame("no video stream")
        stream.codec_context.thread_count = 1
        self.film, self.stream, self.tick = film, stream, float(stream.time_base)
        if last > NEAR and "matroska" in film.format.name:
            self._load_index(last)
        self.frames = film.decode(stream)
        first = self._next()
        if first is None:
            raise DamagedFrame("no frame could be decoded")
        self.shown, self.ahead, self.zero = first, self._next(), first.time

    def to(self, seconds: float) -> VideoFrame:
        """Go on to this many seconds after the film's first frame; the frame shown there."""
        time = self.zero + seconds + ROUNDING
        if self.ahead is not None and time - self.ahead.time > NEAR:
            place = self.stream.index_entries.search_timestamp(int(time / self.tick), backward=True)
            if place >= 0 and self.stream.index_entries[place].timestamp * self.tick > self.ahead.time:
                self._jump(time)
        while self.ahead is not None and self.ahead.time <= time:
            self.shown, self.ahead = self.ahead, self._next()
        return self.shown

    def _load_index(self, last: float) -> None:
        """Matroska's index is read by the first seek; a file without one is indexed on the way to `last` seconds."""
        start = self.stream.start_time or 0
        self.film.seek(start + int(last / self.tick), stream=self.stream)
        self.film.seek(start, stream=self.stream)

    def _jump(self, time: float) -> None:
        """Put `ahead` on a key frame at or before `time` (seconds).

        An index that goes by the time of decoding, which is earlier than that of showing, may land a few frames too
        late; then one further back is tried.
        """
        target, start = int(time / self.tick), int(self.zero / self.tick)
        step = int(NEAR / self.tick) + 1
        while True:
            self.film.seek(target, stream=self.stream)
            self.frames = self.film.decode(self.stream)
            self.ahead = self._next_key()
            if self.ahead is not None and self.ahead.time <= time:
                return
            if target <= start:
                raise DamagedFrame(f"no key frame can be found before {time - self.zero:.3f} s")
            target, step = max(target - step, start), 2 * step

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
