"""Teacher `openai`: captions and questions from any OpenAI-compatible server, such as vLLM, DeepSeek or OpenAI.

A clip's frames go out as JPEG data URLs, each after its time, or as one mp4; a video's captions go out in order with
their time spans, one request per category of question. Captions that do not fit the writer's context are first summed
up in groups, over several levels where it takes them, never cut. A second pass rewrites each reasoning.

What comes back is checked (`longrl.teachers.answers`) and not trusted: a question that does not have the right fields,
an answer that is no JSON, a refusal, half an answer, another language are each a `TeacherError` with the reason, and
the other items go on. Whether a well-formed question is any *good* is the curate stage's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from longrl.config import CaptionSettings, ReasonSettings
from longrl.teachers import prompts
from longrl.teachers.answers import read_caption, read_questions, read_rewrite, read_summary
from longrl.teachers.base import (
    Caption,
    CaptionedClip,
    Captioner,
    Clip,
    Look,
    QuestionDraft,
    TeacherError,
    Writer,
    clock,
)
from longrl.teachers.batch import BatchServer
from longrl.teachers.calls import Call, ignore
from longrl.teachers.notes import Note, estimate_tokens, grouped, notes_of, positions, room_for_notes, size
from longrl.teachers.pictures import Sight, see, sights
from longrl.teachers.script import check_language
from longrl.teachers.server import Server


class OpenAICaptioner(Captioner):
    """Describes clips from their frames."""

    name = "openai"

    def __init__(self, settings: CaptionSettings, batches: Path | None = None):
        self.settings, self.look = settings, Look(settings.frames_per_clip, settings.size)
        self.server = _server(settings, "caption", batches)

    @property
    def identity(self) -> dict[str, Any]:
        looking = {"frames": self.look.frames, "size": self.look.size, "send": self.settings.send}
        return _identity(self.server, prompts.CAPTION_VERSION) | looking | {"boxes": self.settings.boxes}

    def caption(self, frames: np.ndarray, times: Sequence[float], clip: Clip) -> Caption:
        sight = see(frames, times, clip, self.settings.send == "video")
        return _only(self.server, clip, lambda clip: self._describe(clip, sight))

    def caption_clips(
        self,
        clips: Sequence[Clip],
        on_done: Callable[[Clip, Caption | TeacherError], None],
        on_call: Callable[[Call], None] = ignore,
    ) -> None:
        async def work(item: tuple[Clip, Sight | TeacherError]) -> Caption:
            clip, sight = item
            if isinstance(sight, TeacherError):
                raise sight
            return await self._describe(clip, sight)

        self.server.model  # noqa: B018 (asked for once, before any work)
        with closing(sights(clips, self.look, self.settings.send == "video", self.settings.workers)) as seen:
            self.server.run(seen, work, lambda item, done: on_done(item[0], done), on_call)

    async def _describe(self, clip: Clip, sight: Sight) -> Caption:
        boxes, language = self.settings.boxes, self.server.settings.language
        clocks = [clock(time) for time in sight.times]
        messages = prompts.caption_messages(clip.span, clocks, sight.take(), sight.video, boxes, language)
        schema = prompts.caption_schema() if boxes else None
        answer = await self.server.complete(messages, schema, clip.clip_id, "caption")
        caption = read_caption(answer, clip) if boxes else Caption(answer)
        check_language(caption.text, language)
        return caption


class OpenAIWriter(Writer):
    """Asks about videos, one request a category."""

    name = "openai"

    def __init__(self, settings: ReasonSettings, batches: Path | None = None):
        self.settings = settings
        self.server = _server(settings, "reason", batches)

    @property
    def identity(self) -> dict[str, Any]:
        asking = {"open_share": self.settings.open_share, "rewrite": self.settings.rewrite}
        return _identity(self.server, prompts.QUESTION_VERSION) | asking | {"context": self.server.context}

    def questions(self, clips: Sequence[CaptionedClip], count: int, seed: int) -> list[QuestionDraft | TeacherError]:
        self.server.context  # noqa: B018 (asked for before any work)
        return _only(self.server, clips, lambda clips: self._ask(clips, count, seed, Counter()))

    def write_videos(
        self,
        videos: Sequence[Sequence[CaptionedClip]],
        count: int,
        seed: int,
        on_done: Callable[[str, Sequence[QuestionDraft | TeacherError] | TeacherError, dict[str, int]], None],
        on_call: Callable[[Call], None] = ignore,
    ) -> None:
        steps: dict[str, Counter[str]] = {clips[0].video_id: Counter() for clips in videos}
        self.server.model, self.server.context  # noqa: B018 (asked for once, before any work)
        self.server.run(
            videos,
            lambda clips: self._ask(clips, count, seed, steps[clips[0].video_id]),
            lambda clips, done: on_done(clips[0].video_id, done, dict(steps[clips[0].video_id])),
            on_call,
        )

    async def _ask(
        self, clips: Sequence[CaptionedClip], count: int, seed: int, steps: Counter[str]
    ) -> list[QuestionDraft | TeacherError]:
        """All categories at once; one that fails leaves its `TeacherError` in the list. `steps` is added to."""
        video_id, language = clips[0].video_id, self.server.settings.language
        notes = await self._notes(clips, steps)
        places = positions(clips)
        if places and sum(map(estimate_tokens, places)) + size(notes) > self._room:
            places, steps["positions_left_out"] = [], len(places)

        async def ask(category: str, choices: int, opens: int) -> list[QuestionDraft | TeacherError]:
            messages = prompts.question_messages(notes, category, choices, opens, places, language)
            schema = prompts.question_schema(choices, opens)
            try:
                answer = await self.server.complete(messages, schema, video_id, category)
                written = read_questions(answer, category, choices, opens, language)
            except TeacherError as error:
                return [TeacherError(f"{category}: {error}")]
            if not self.settings.rewrite:
                return written
            return await asyncio.gather(*(self._rewritten(draft, video_id, steps) for draft in written))

        shares = kinds(quotas(count, seed, video_id), self.settings.open_share, seed, video_id)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(category, *each)) for category, each in shares.items() if any(each)]
        written = [one for task in tasks for one in task.result()]
        if all(isinstance(one, TeacherError) for one in written):
            raise TeacherError("; ".join(str(one) for one in written))
        return written

    @property
    def _room(self) -> int:
        """Tokens that notes may take in a request."""
        return room_for_notes(self.server.settings, self.server.context)

    async def _notes(self, clips: Sequence[CaptionedClip], steps: Counter[str]) -> list[Note]:
        """The captions, summed up over as many levels as it takes to fit the context."""
        notes = notes_of(clips)
        while size(notes) > self._room:
            groups = grouped(notes, self._room, steps["levels"])
            steps["levels"] += 1
            steps["summaries"] += len(groups)
            async with asyncio.TaskGroup() as tasks:
                sums = [tasks.create_task(self._summed_up(group, clips[0].video_id)) for group in groups]
            notes = []
            for task in sums:
                if isinstance(summary := task.result(), TeacherError):
                    raise summary
                notes.append(summary)
        return notes

    async def _summed_up(self, notes: Sequence[Note], video_id: str) -> Note | TeacherError:
        language = self.server.settings.language
        try:
            text = await self.server.complete(prompts.summary_messages(notes, language), None, video_id, "summary")
            return read_summary(text, notes, language)
        except TeacherError as error:
            return error

    async def _rewritten(
        self, draft: QuestionDraft | TeacherError, video_id: str, steps: Counter[str]
    ) -> QuestionDraft | TeacherError:
        """The draft with its reasoning rewritten, or as it is where the rewriting came to nothing of use."""
        if isinstance(draft, TeacherError):
            return draft
        language = self.server.settings.language
        right = draft.options[prompts.LETTERS.index(draft.answer)] if draft.kind == "choice" else draft.answer
        messages = prompts.rewrite_messages(
            draft.question, draft.options, right, draft.reasoning, draft.conclusion, language
        )
        try:
            answer = await self.server.complete(messages, prompts.rewrite_schema(), video_id, "rewrite")
            reasoning = read_rewrite(answer, right, draft.reasoning)
            check_language(reasoning, language)
        except TeacherError:
            steps["not_rewritten"] += 1
            return draft
        steps["rewritten"] += 1
        return replace(draft, reasoning=reasoning)


def quotas(count: int, seed: int, video_id: str) -> dict[str, int]:
    """How many questions of each category to ask of a video; who gets the odd ones is drawn by seed and video.

    >>> sorted(quotas(6, 0, "a video").values())
    [1, 1, 2, 2]
    """
    first = int.from_bytes(hashlib.sha256(f"{seed}{video_id}".encode()).digest()[:4], "big")
    each, odd = divmod(count, len(prompts.CATEGORIES))
    kinds = prompts.CATEGORIES
    return {category: each + ((place - first) % len(kinds) < odd) for place, category in enumerate(kinds)}


def kinds(shares: dict[str, int], open_share: float, seed: int, video_id: str) -> dict[str, tuple[int, int]]:
    """How many of each category's questions are multiple-choice and open; over many videos `open_share` are open.

    >>> kinds({"goal": 2, "plot": 2}, 0.5, 0, "a video")
    {'goal': (1, 1), 'plot': (1, 1)}
    """
    start = int.from_bytes(hashlib.sha256(f"open{seed}{video_id}".encode()).digest()[:4], "big") / 2**32
    split = {}
    place = 0
    for category, count in shares.items():
        opens = math.floor(start + (place + count) * open_share) - math.floor(start + place * open_share)
        split[category] = (count - opens, opens)
        place += count
    return split


def _server(settings: CaptionSettings | ReasonSettings, section: str, batches: Path | None) -> Server:
    """The server asked request by request, or in batch mode, with a folder for them, by files of requests."""
    if settings.mode == "batch" and batches is not None:
        return BatchServer(settings.server, section, batches)
    return Server(settings.server, section)


def _identity(server: Server, prompt: str) -> dict[str, Any]:
    settings = server.settings
    return {
        "teacher": "openai",
        "model": server.model,
        "prompt": prompt,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "language": settings.language,
    }


def _only(server: Server, item: Any, work: Callable[[Any], Any]) -> Any:
    """Do one item and return its outcome or raise its error."""
    outcomes: list[Any] = []
    server.model  # noqa: B018
    server.run([item], work, lambda _, done: outcomes.append(done))
    if isinstance(outcomes[0], TeacherError):
        raise outcomes[0]
    return outcomes[0]
