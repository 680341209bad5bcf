"""Teacher `measured`: captions and questions from measurements of frames and sound, without any model.

It sees decoded frames, hears decoded samples if asked to, and knows nothing else. A clip that looks like a story is
told as who goes where; any other clip is described by its light, colours, motion and cuts. Questions are composed from
the captions' facts alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from longrl.teachers import hearing, language, scenery
from longrl.teachers.base import Caption, CaptionedClip, Captioner, Clip, Look, QuestionDraft, TeacherError, Writer
from longrl.teachers.calls import Call
from longrl.teachers.measure import measure
from longrl.teachers.pictures import CHUNK, chunks
from longrl.teachers.sighting import Sighting, Visit, see
from longrl.video.audio import RATE, read_sound
from longrl.video.crew import WorkerLost, beat, run_jobs
from longrl.video.decode import DecodeError, read_frames
from longrl.video.sample import FramePlan, fit, plan_frames
from longrl.video.stories import CORNERS, PLACES, SOUNDS

VERSION = 2
SPACING = 0.25  # seconds between frames, at most: things must be found again in the next frame


@dataclass(frozen=True)
class CloseLook(Look):
    """At least `frames` frames a clip, and as many more as it takes to follow what moves.

    One more is from just before the clip, to see whether it begins with a cut.
    """

    def plan(self, clip: Clip) -> FramePlan:
        count = max(self.frames, math.ceil((clip.end - clip.start) / SPACING))
        height, width = fit(clip.width, clip.height, self.size)
        plan = plan_frames(clip.end, count, height, width, clip.start, clip.end)
        before = clip.start - SPACING / 2
        return plan if before < 0 else FramePlan((round(before, 6), *plan.times), height, width)


class MeasuredCaptioner(Captioner):
    """Describes clips by measuring them, in `workers` processes."""

    name = "measured"

    def __init__(self, look: Look, workers: int = 1, listen: bool = False):
        self.look = CloseLook(look.frames, look.size)
        self.workers, self.listen = workers, listen

    @property
    def identity(self) -> dict[str, Any]:
        seen = {"name": self.name, "version": VERSION, "frames": self.look.frames, "size": self.look.size}
        return seen | ({"listen": True} if self.listen else {})

    def caption(
        self, frames: np.ndarray, times: Sequence[float], clip: Clip, sound: np.ndarray | None = None
    ) -> Caption:
        """Describe one clip; `sound` is its samples, float32 (n,) at 16 kHz, if it is to be heard too."""
        before = sum(time < clip.start for time in times)
        story = see(frames[before:], times[before:])
        if story is not None:
            if sound is not None:
                story = heard(story, sound, clip.start)
            told = [language.clip_caption(_event(visit, clip.index)) for visit in story.visits]
            return Caption(" ".join(told) or "Nobody acts.", story.facts())
        facts = measure(frames, times, clip.start, clip.end).facts()
        return Caption(scenery.describe(facts), facts)

    def caption_clips(
        self,
        clips: Sequence[Clip],
        on_done: Callable[[Clip, Caption | TeacherError], None],
        on_call: Callable[[Call], None],
    ) -> None:
        """Clips of one video are decoded in one pass; a video that hangs or crashes its decoder costs only itself."""
        jobs = [Job(chunk, self.look, self.listen) for chunk in chunks(clips, CHUNK)]
        for job, result in run_jobs(caption_chunk, jobs, self.workers, expected=(DecodeError,)):
            if isinstance(result, DecodeError | WorkerLost):
                result = [TeacherError(f"{clip.path} at {clip.span}: {result}") for clip in job.clips]
            for clip, caption in zip(job.clips, result, strict=True):
                on_done(clip, caption)


@dataclass(frozen=True)
class Job:
    """Clips of one video, in the order of time, for a worker process."""

    clips: tuple[Clip, ...]
    look: Look
    listen: bool = False


def caption_chunk(job: Job) -> list[Caption]:
    """The captions of a job's clips; raises `DecodeError`."""
    teacher = MeasuredCaptioner(job.look, listen=job.listen)
    plans = [teacher.look.plan(clip) for clip in job.clips]
    times = tuple(sorted({time for plan in plans for time in plan.times}))
    place = {time: row for row, time in enumerate(times)}
    frames = read_frames(job.clips[0].path, FramePlan(times, plans[0].height, plans[0].width))
    first = job.clips[0].start
    track = read_sound(job.clips[0].path, (first, job.clips[-1].end)) if job.listen else None
    captions = []
    for clip, plan in zip(job.clips, plans, strict=True):
        beat()
        sound = None if track is None else track[round((clip.start - first) * RATE) : round((clip.end - first) * RATE)]
        captions.append(teacher.caption(frames[[place[time] for time in plan.times]], plan.times, clip, sound))
    return captions


def heard(story: Sighting, sound: np.ndarray, start: float) -> Sighting:
    """The sighting with what each visit sounds like; `sound` begins at `start`, seconds."""

    def of(visit: Visit) -> str:
        first, last = (round((time - start) * RATE) for time in (visit.start, visit.end))
        return hearing.name(hearing.listen(sound[first:last]))

    return replace(story, visits=tuple(replace(visit, sound=of(visit)) for visit in story.visits))


class MeasuredWriter(Writer):
    """Composes questions from what was measured of a video's clips."""

    name = "measured"

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "version": VERSION}

    def questions(self, clips: Sequence[CaptionedClip], count: int, seed: int) -> list[QuestionDraft]:
        rng = random.Random(f"{seed} {clips[0].video_id}")
        kinds = {clip.facts.get("kind") for clip in clips}
        if kinds == {"story"}:
            drafts = story_questions(clips, rng)
        else:
            measured = [clip for clip in clips if clip.facts.get("kind") == "scenery"]
            drafts = scenery.questions(measured, rng) if measured else []
        return spread(drafts, count, rng)


def story_questions(clips: Sequence[CaptionedClip], rng: random.Random) -> list[QuestionDraft]:
    """All questions about a story; none where an agent acts twice, since then "where does red go" has two answers."""
    events: list[language.Event] = []
    for clip in clips:
        for visit in clip.facts["visits"]:
            event = _event(Visit(**visit), clip.index)
            if events and (events[-1].actor, events[-1].place) == (event.actor, event.place):
                continue  # the errand goes on over the clips' border
            events.append(event)
    if len(events) < 2 or len({event.actor for event in events}) < len(events):
        return []
    drafts = []
    for question in language.questions(events, list(CORNERS), list(PLACES), rng, list(SOUNDS)):
        if len(set(question.options)) == 4:
            drafts.append(
                QuestionDraft(
                    category=question.category,
                    question=question.text,
                    options=tuple(question.options),
                    answer=question.answer,
                    reasoning=question.reasoning,
                    conclusion=question.conclusion,
                    evidence=_evidence(question, events),
                )
            )
    return drafts


def spread(drafts: list[QuestionDraft], count: int, rng: random.Random) -> list[QuestionDraft]:
    """`count` of the drafts in random order, none twice, as evenly over the categories as there are questions."""
    by_category: dict[str, list[QuestionDraft]] = {}
    seen = set()
    for draft in rng.sample(drafts, len(drafts)):
        if (same := (draft.question, frozenset(draft.options))) not in seen:
            seen.add(same)
            by_category.setdefault(draft.category, []).append(draft)
    queues = list(by_category.values())
    rng.shuffle(queues)
    chosen: list[QuestionDraft] = []
    while queues and len(chosen) < count:
        for queue in queues:
            chosen.append(queue.pop())
        queues = [queue for queue in queues if queue]
    return chosen[:count]


def _event(visit: Visit, index: int) -> language.Event:
    return language.Event(index + 1, visit.start, visit.end, visit.actor, visit.place, visit.corner, visit.sound)


def _evidence(question: language.Question, events: Sequence[language.Event]) -> tuple[int, ...]:
    """Indices of the clips whose agents the question or its right option speaks of; all where it speaks of none."""
    right = question.options[language.LETTERS.index(question.answer)]
    words = f"{question.text} {right}".replace("?", " ").split()
    return tuple(event.clip - 1 for event in events if event.actor in words) or tuple(e.clip - 1 for e in events)
