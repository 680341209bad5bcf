"""Teacher `openai`: captions and questions from any OpenAI-compatible server, such as vLLM, DeepSeek or OpenAI.

A clip's frames go out as JPEG data URLs, each after its time; a video's captions go out in order with their time spans,
one request per category of question. What comes back is checked here and not trusted: a question that does not have the
right fields, an answer that is no JSON, a refusal, half an answer are each a `TeacherError` with the reason, and
the other items go on. Whether a well-formed question is any *good* is the curate stage's business.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longrl.config import Categories, TeacherServer
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
from longrl.teachers.server import Server

Text = Annotated[str, Field(min_length=1)]


class WrittenQuestion(BaseModel):
    """One question as the model must write it; other fields are ignored."""

    model_config = ConfigDict(str_strip_whitespace=True)

    question: Text
    options: list[str] = Field(min_length=2, max_length=len(prompts.LETTERS))
    evidence: list[Annotated[int, Field(ge=0, lt=2**31)]]
    reasoning: Text
    conclusion: str
    answer: str = Field(pattern=r"^[A-J]$")


class OpenAICaptioner(Captioner):
    """Describes clips from their frames."""

    name = "openai"

    def __init__(self, server: TeacherServer, look: Look):
        self.server, self.look = Server(server, "caption"), look

    @property
    def identity(self) -> dict[str, Any]:
        looking = {"frames": self.look.frames, "size": self.look.size}
        return _identity(self.server, prompts.CAPTION_VERSION) | looking

    def caption(self, frames: np.ndarray, times: Sequence[float], clip: Clip) -> Caption:
        return _only(self.server, clip, lambda clip: self._describe(frames, times, clip))

    def caption_clips(self, clips: Sequence[Clip], on_done: Callable[[Clip, Caption | TeacherError], None]) -> None:
        async def work(clip: Clip) -> Caption:
            frames, times = await asyncio.to_thread(self.look.read, clip)
            return await self._describe(frames, times, clip)

        self.server.model  # noqa: B018 (asked for once, before any work)
        self.server.run(clips, work, on_done)

    async def _describe(self, frames: np.ndarray, times: Sequence[float], clip: Clip) -> Caption:
        images = await asyncio.to_thread(lambda: [data_url(frame) for frame in frames])
        messages = prompts.caption_messages(clip.span, [clock(time) for time in times], images)
        return Caption(await self.server.complete(messages))


class OpenAIWriter(Writer):
    """Asks about videos, one request a category."""

    name = "openai"

    def __init__(self, server: TeacherServer):
        self.server = Server(server, "reason")

    @property
    def identity(self) -> dict[str, Any]:
        return _identity(self.server, prompts.QUESTION_VERSION)

    def questions(self, clips: Sequence[CaptionedClip], count: int, seed: int) -> list[QuestionDraft | TeacherError]:
        return _only(self.server, clips, lambda clips: self._ask(clips, count, seed))

    def write_videos(
        self,
        videos: Sequence[Sequence[CaptionedClip]],
        count: int,
        seed: int,
        on_done: Callable[[str, list[QuestionDraft | TeacherError] | TeacherError], None],
    ) -> None:
        self.server.model  # noqa: B018 (asked for once, before any work)
        self.server.run(
            videos, lambda clips: self._ask(clips, count, seed), lambda clips, done: on_done(clips[0].video_id, done)
        )

    async def _ask(self, clips: Sequence[CaptionedClip], count: int, seed: int) -> list[QuestionDraft | TeacherError]:
        """All categories at once; one that fails leaves its `TeacherError` in the list."""

        async def ask(category: str, quota: int) -> list[QuestionDraft | TeacherError]:
            try:
                answer = await self.server.complete(
                    prompts.question_messages(clips, category, quota), prompts.question_schema(quota)
                )
                return read_questions(answer, category, quota)
            except TeacherError as error:
                return [TeacherError(f"{category}: {error}")]

        shares = quotas(count, seed, clips[0].video_id)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(category, quota)) for category, quota in shares.items() if quota]
        written = [one for task in tasks for one in task.result()]
        if all(isinstance(one, TeacherError) for one in written):
            raise TeacherError("; ".join(str(one) for one in written))
        return written


def quotas(count: int, seed: int, video_id: str) -> dict[str, int]:
    """How many questions of each category to ask of a video; who gets the odd ones is drawn by seed and video.

    >>> sorted(quotas(6, 0, "a video").values())
    [1, 1, 2, 2]
    """
    first = int.from_bytes(hashlib.sha256(f"{seed}{video_id}".encode()).digest()[:4], "big")
    each, odd = divmod(count, len(Categories))
    return {category: each + ((place - first) % len(Categories) < odd) for place, category in enumerate(Categories)}


def read_questions(answer: str, category: str, quota: int) -> list[QuestionDraft | TeacherError]:
    """The questions in a model's answer, and a `TeacherError` for each entry that is not one; at most `quota` in all.

    Raises `TeacherError` when the answer as a whole cannot be read.
    """
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())
    try:
        entries = json.loads(text)["questions"]
    except (ValueError, KeyError, TypeError) as error:
        raise TeacherError(f"the answer is not the JSON asked for ({error}): {text[:80]!r}") from None
    if not isinstance(entries, list) or not entries:
        raise TeacherError(f"the answer has no questions: {text[:80]!r}")
    written: list[QuestionDraft | TeacherError] = []
    for entry in entries[:quota]:
        try:
            fields = WrittenQuestion.model_validate(entry)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"]) or "question"
            written.append(TeacherError(f"{category}: {where}: {fault['msg']}"))
            continue
        written.append(
            QuestionDraft(
                category=category,
                question=fields.question,
                options=tuple(fields.options),
                answer=fields.answer,
                reasoning=fields.reasoning,
                conclusion=fields.conclusion,
                evidence=tuple(dict.fromkeys(fields.evidence)),
            )
        )
    return written


def data_url(frame: np.ndarray) -> str:
    """A frame, uint8 (H, W, 3) RGB, as a JPEG data URL."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _identity(server: Server, prompt: str) -> dict[str, Any]:
    settings = server.settings
    return {
        "teacher": "openai",
        "model": server.model,
        "prompt": prompt,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
    }


def _only(server: Server, item: Any, work: Callable[[Any], Any]) -> Any:
    """Do one item and return its outcome or raise its error."""
    outcomes: list[Any] = []
    server.model  # noqa: B018
    server.run([item], work, lambda _, done: outcomes.append(done))
    if isinstance(outcomes[0], TeacherError):
        raise outcomes[0]
    return outcomes[0]
