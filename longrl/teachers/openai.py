"""Teacher `openai`: captions and questions from any OpenAI-compatible server, such as vLLM, DeepSeek or OpenAI.

A clip's frames go out as JPEG data URLs, each after its time, or as one mp4; a video's captions go out in order with
their time spans, one request per category of question. Captions that do not fit the writer's context are first summed
up in groups, over several levels where it takes them, never cut. A second pass rewrites each reasoning.

What comes back is checked here and not trusted: a question that does not have the right fields, an answer that is no
JSON, a refusal, half an answer, another language are each a `TeacherError` with the reason, and the other items go on.
Whether a well-formed question is any *good* is the curate stage's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longrl.config import CaptionSettings, Categories, ReasonSettings
from longrl.teachers import prompts
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
from longrl.teachers.calls import Call
from longrl.teachers.pictures import Sight, see, sights
from longrl.teachers.prompts import Note, estimate_tokens
from longrl.teachers.script import check_language
from longrl.teachers.server import Server, ignore

LEVELS = 4  # of summaries; each makes the notes many times shorter
SHORTEST = 0.4  # of the first reasoning's words, that a rewritten one must have
BETRAYAL = re.compile(
    r"\[\d+\]|\b(captions?|(the|these|those) notes?|transcripts?|descriptions?|segments?"
    r"|(clips?|frames?) (no\.? ?)?#?\d+)\b",
    re.IGNORECASE,
)

Text = Annotated[str, Field(min_length=1)]


class WrittenQuestion(BaseModel):
    """One question as the model must write it; other fields are ignored."""

    model_config = ConfigDict(str_strip_whitespace=True)

    question: Text
    evidence: list[Annotated[int, Field(ge=0, lt=2**31)]]
    reasoning: Text
    conclusion: str
    answer: Text


class WrittenChoice(WrittenQuestion):
    """One multiple-choice question as the model must write it."""

    options: list[str] = Field(min_length=2, max_length=len(prompts.LETTERS))
    answer: str = Field(pattern=r"^[A-J]$")


class WrittenRewrite(BaseModel):
    """A rewritten reasoning, and the answer it leads to, in words."""

    reasoning: Text
    answer: Text


class SeenObject(BaseModel):
    """An object in a caption with boxes."""

    label: Text
    box: tuple[float, float, float, float]
    time: float

    def fits(self, clip: Clip) -> bool:
        """Whether the box lies in the picture and the time in the clip."""
        left, top, right, bottom = self.box
        return 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and clip.start <= self.time <= clip.end


class WrittenCaption(BaseModel):
    """A caption with boxes as the model must write it."""

    caption: Text
    objects: list[Any]


class OpenAICaptioner(Captioner):
    """Describes clips from their frames."""

    name = "openai"

    def __init__(self, settings: CaptionSettings, batches: Path | None = None):
        self.settings, self.look = settings, Look(settings.frames_per_clip, settings.size)
        self.server = Server.of(settings.server, "caption", batches if settings.mode == "batch" else None)

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
        self.server = Server.of(settings.server, "reason", batches if settings.mode == "batch" else None)

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
        return self.server.context - self.server.settings.max_tokens - prompts.PROMPT_TOKENS

    async def _notes(self, clips: Sequence[CaptionedClip], steps: Counter[str]) -> list[Note]:
        """The captions, summed up over as many levels as it takes to fit the context."""
        notes = [Note(clip.index, clip.index, clip.span, clip.caption) for clip in clips]
        while size(notes) > self._room:
            if steps["levels"] == LEVELS or self._room < 2 * prompts.SUMMARY_TOKENS:
                raise TeacherError(
                    f"the captions take about {size(notes)} tokens after {steps['levels']} levels of summaries, but "
                    f"reason.server.context leaves {self._room} for them; raise it"
                )
            steps["levels"] += 1
            groups = grouped(notes, self._room)
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


def size(notes: Sequence[Note]) -> int:
    """About how many tokens notes take."""
    return sum(estimate_tokens(note.line) + 1 for note in notes)


def grouped(notes: Sequence[Note], room: int) -> list[list[Note]]:
    """Notes in consecutive groups: as many as leave room for all their summaries, none larger than `room` tokens.

    Raises `TeacherError` when a single note is larger than that.
    """
    sizes = [size([note]) for note in notes]
    for note, tokens in zip(notes, sizes, strict=True):
        if tokens > room:
            raise TeacherError(f"clip {note.first}: its caption alone takes about {tokens} tokens, {room} fit")
    summaries = max(1, room // prompts.SUMMARY_TOKENS)
    target = min(room, math.ceil(sum(sizes) / summaries) + max(sizes))
    groups: list[list[Note]] = []
    filled = target + 1
    for note, tokens in zip(notes, sizes, strict=True):
        if filled + tokens > target:
            groups.append([])
            filled = 0
        groups[-1].append(note)
        filled += tokens
    return groups


def positions(clips: Sequence[CaptionedClip]) -> list[str]:
    """A JSON line for each object that a caption's facts place in the picture."""
    return [
        prompts.quoted({"n": clip.index, "time": clock(seen["time"]), "label": seen["label"], "box": seen["box"]})
        for clip in clips
        for seen in clip.facts.get("objects", [])
    ]


def quotas(count: int, seed: int, video_id: str) -> dict[str, int]:
    """How many questions of each category to ask of a video; who gets the odd ones is drawn by seed and video.

    >>> sorted(quotas(6, 0, "a video").values())
    [1, 1, 2, 2]
    """
    first = int.from_bytes(hashlib.sha256(f"{seed}{video_id}".encode()).digest()[:4], "big")
    each, odd = divmod(count, len(Categories))
    return {category: each + ((place - first) % len(Categories) < odd) for place, category in enumerate(Categories)}


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


def read_json(answer: str) -> Any:
    """The JSON in a model's answer, also from within a code fence; raises `TeacherError`."""
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TeacherError(f"the answer is not the JSON asked for ({error}): {text[:80]!r}") from None


def read_caption(answer: str, clip: Clip) -> Caption:
    """The caption and its objects in a model's answer; what is no object of this clip is left out and counted.

    Raises `TeacherError` when there is no caption.
    """
    try:
        written = WrittenCaption.model_validate(read_json(answer))
    except ValidationError as error:
        raise TeacherError(f"the answer is not the caption asked for: {fault(error)}") from None
    objects = []
    for entry in written.objects:
        try:
            seen = SeenObject.model_validate(entry)
        except ValidationError:
            continue
        if seen.fits(clip):
            objects.append(seen.model_dump(mode="json"))
    facts: dict[str, Any] = {"objects": objects}
    if len(objects) < len(written.objects):
        facts["unusable_objects"] = len(written.objects) - len(objects)
    return Caption(written.caption, facts)


def read_summary(text: str, notes: Sequence[Note], language: str) -> Note:
    """A summary of some notes as one note; raises `TeacherError` when it names none of their clips, or others."""
    first, last = notes[0], notes[-1]
    named = {int(number) for number in re.findall(r"\[(\d+)", text)}
    if not named or not named <= set(range(first.first, last.last + 1)):
        raise TeacherError(
            f"the summary of clips {first.first} to {last.last} names "
            + (f"others: {sorted(named)}" if named else f"none of them: {text[:80]!r}")
        )
    check_language(text, language)
    span = f"{first.span.partition('-')[0]}-{last.span.partition('-')[2]}"
    return Note(first.first, last.last, span, text)


def read_questions(
    answer: str, category: str, choices: int, opens: int = 0, language: str = ""
) -> list[QuestionDraft | TeacherError]:
    """The questions in a model's answer, and a `TeacherError` for each entry that is not one; at most so many in all.

    Raises `TeacherError` when the answer as a whole cannot be read.
    """
    value = read_json(answer)
    asked = (("questions", WrittenChoice, choices), ("open_questions", WrittenQuestion, opens))
    found = {field: value.get(field) if isinstance(value, dict) else None for field, _, _ in asked}
    if not any(isinstance(found[field], list) and found[field] for field, _, count in asked if count):
        raise TeacherError(f"the answer has no questions: {answer[:80]!r}")
    written: list[QuestionDraft | TeacherError] = []
    for field, form, count in asked:
        entries = found[field] or []
        if count and (not entries or not isinstance(entries, list)):
            written.append(TeacherError(f"{category}: the answer has no {field}: {answer[:80]!r}"))
            continue
        for entry in entries[:count]:
            try:
                written.append(read_question(entry, form, category, language))
            except TeacherError as error:
                written.append(TeacherError(f"{category}: {error}"))
    return written


def read_question(entry: Any, form: type[WrittenQuestion], category: str, language: str) -> QuestionDraft:
    """One entry of an answer as a question; raises `TeacherError` when it is none."""
    try:
        fields = form.model_validate(entry)
    except ValidationError as error:
        raise TeacherError(fault(error)) from None
    options = tuple(option.strip() for option in fields.options) if isinstance(fields, WrittenChoice) else ()
    if options and fields.answer not in prompts.LETTERS[: len(options)]:
        raise TeacherError(f"the answer is {fields.answer}, but there are only {len(options)} options")
    check_language(" ".join((fields.question, *options, fields.reasoning, fields.conclusion)), language)
    return QuestionDraft(
        category=category,
        question=fields.question,
        options=options,
        answer=fields.answer,
        reasoning=fields.reasoning,
        conclusion=fields.conclusion,
        evidence=tuple(dict.fromkeys(fields.evidence)),
        kind="choice" if options else "open",
    )


def read_rewrite(answer: str, right: str, reasoning: str) -> str:
    """The rewritten reasoning; raises `TeacherError` when it leads elsewhere, leaves much out or speaks of notes."""
    try:
        written = WrittenRewrite.model_validate(read_json(answer))
    except ValidationError as error:
        raise TeacherError(f"the answer is not the rewriting asked for: {fault(error)}") from None
    if plain(written.answer) != plain(right):
        raise TeacherError(f"the rewritten reasoning answers {written.answer!r} instead of {right!r}")
    if len(written.reasoning.split()) < SHORTEST * len(reasoning.split()):
        raise TeacherError("the rewritten reasoning leaves most of it out")
    if betrayal := BETRAYAL.search(written.reasoning):
        raise TeacherError(f"the rewritten reasoning speaks of {betrayal[0]!r}")
    return written.reasoning


def plain(text: str) -> str:
    """A text's letters and digits in lower case, in words."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def fault(error: ValidationError) -> str:
    """The first fault of an answer: where, and what."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'answer'}: {first['msg']}"


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
