"""What a teacher is: a captioner that describes clips, and a writer that asks about a video from its captions.

Two narrow interfaces. A teacher gets the whole list of open work and reports each finished item, so that one may fan
out over processes (`measured`) and another over requests in flight (`openai`); the stage records an item the moment it
is reported, so a killed run loses only what was in flight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from longrl.errors import LongrlError, Transient
from longrl.teachers.calls import Call
from longrl.video.sample import FramePlan, fit, plan_frames


class TeacherError(LongrlError):
    """This one item could not be done (refused, unparsable answer, unreadable frames): it becomes a reject."""


class TeacherUnavailable(LongrlError):
    """No item can be done (key refused, no such model): the stage stops, and what was finished is kept."""


class TeacherUnreachable(TeacherUnavailable, Transient):
    """No item can be done just now (no connection, an overloaded server): the stage is worth trying again later."""


@dataclass(frozen=True)
class Clip:
    """A span of a video. Times in seconds from the video's start; width and height in pixels as displayed."""

    clip_id: str
    video_id: str
    path: str
    index: int
    start: float
    end: float
    width: int
    height: int

    @property
    def span(self) -> str:
        """The clip's time span as people write it, e.g. `0:10-0:20`."""
        return f"{clock(self.start)}-{clock(self.end)}"


@dataclass(frozen=True)
class Look:
    """How a teacher looks at a clip: this many frames, the longer side this many pixels."""

    frames: int
    size: int

    def plan(self, clip: Clip) -> FramePlan:
        height, width = fit(clip.width, clip.height, self.size)
        return plan_frames(clip.end, self.frames, height, width, clip.start, clip.end)

    def read(self, clip: Clip) -> tuple[np.ndarray, tuple[float, ...]]:
        """The clip's frames, uint8 (T, H, W, 3) RGB, and their times in seconds; raises `TeacherError`."""
        from longrl.video.decode import DecodeError, read_frames

        plan = self.plan(clip)
        try:
            return read_frames(clip.path, plan), plan.times
        except DecodeError as error:
            raise TeacherError(f"{clip.path} at {clip.span}: {error}") from error


@dataclass(frozen=True)
class Caption:
    """One clip in words, and what was measured of it (JSON-serialisable; empty where a teacher only writes text)."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptionedClip:
    """A clip as a writer sees it: no path, no pixels."""

    clip_id: str
    video_id: str
    index: int
    start: float
    end: float
    caption: str
    facts: dict[str, Any]

    @property
    def span(self) -> str:
        return f"{clock(self.start)}-{clock(self.end)}"


@dataclass(frozen=True)
class QuestionDraft:
    """A question with its reasoned answer. `options` are without letters; `answer` is the letter of the right one."""

    category: str  # temporal, goal, spatial, plot, sound
    question: str
    options: tuple[str, ...]
    answer: str  # A, B, ...
    reasoning: str  # what happens when, citing clips by their time spans
    conclusion: str  # the sentence from which the option follows; may be empty
    evidence: tuple[int, ...]  # indices of the clips the answer rests on
    kind: str = "choice"  # or open: no options, `answer` is a text

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"options": list(self.options), "evidence": list(self.evidence)}


class Captioner(ABC):
    """Describes clips. `name` stands in the captions table; `identity` is everything that changes what it says."""

    name: str
    look: Look

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-serialisable: model, prompt version, frames, size; a caption is made again when this changes."""

    @abstractmethod
    def caption(self, frames: np.ndarray, times: Sequence[float], clip: Clip) -> Caption:
        """Describe one clip from its frames, uint8 (T, H, W, 3), taken at `times` (seconds).

        Raises `TeacherError` when this clip can't be described and `TeacherUnavailable` when none can.
        """

    def caption_clips(
        self,
        clips: Sequence[Clip],
        on_done: Callable[[Clip, Caption | TeacherError], None],
        on_call: Callable[[Call], None],
    ) -> None:
        """Describe all `clips`, in any order, calling `on_done` in the calling thread as each one is finished.

        A clip's own failure is handed to `on_done`; `TeacherUnavailable` is raised. Requests to a server are told to
        `on_call`. This one goes clip by clip; a teacher that can do many at once overrides it.
        """
        for clip in clips:
            try:
                done: Caption | TeacherError = self.caption(*self.look.read(clip), clip)
            except TeacherError as error:
                done = error
            on_done(clip, done)


class Writer(ABC):
    """Asks about videos, reading their captions in order and never seeing a frame."""

    name: str

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-serialisable: everything that changes what it asks."""

    @abstractmethod
    def questions(
        self, clips: Sequence[CaptionedClip], count: int, seed: int
    ) -> Sequence[QuestionDraft | TeacherError]:
        """At most `count` questions about one video, spread over the categories; fewer when less can be asked.

        A `TeacherError` among them stands for one that was written and cannot be used; it becomes a reject.

        Raises `TeacherError` when nothing usable came back and `TeacherUnavailable` when no video can be done.
        """

    def write_videos(
        self,
        videos: Sequence[Sequence[CaptionedClip]],
        count: int,
        seed: int,
        on_done: Callable[[str, Sequence[QuestionDraft | TeacherError] | TeacherError, dict[str, int]], None],
        on_call: Callable[[Call], None],
    ) -> None:
        """Ask about each video, in any order, calling `on_done(video_id, questions, steps)` in the calling thread.

        `steps` counts what a teacher did on the way, such as summaries. Requests to a server are told to `on_call`.
        """
        for clips in videos:
            try:
                done: Sequence[QuestionDraft | TeacherError] | TeacherError = self.questions(clips, count, seed)
            except TeacherError as error:
                done = error
            on_done(clips[0].video_id, done, {})


def clock(seconds: float) -> str:
    """Seconds as `m:ss`, with tenths only where they matter, or `h:mm:ss`.

    >>> clock(75), clock(3.72), clock(3725)
    ('1:15', '0:03.7', '1:02:05')
    """
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    tail = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{minutes // 60}:{minutes % 60:02d}:{tail}" if minutes >= 60 else f"{minutes}:{tail}"
