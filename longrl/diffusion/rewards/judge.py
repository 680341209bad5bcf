"""The reward `judge`: how good a picture or clip is, said by a VLM behind an OpenAI-compatible server.

Frames go as JPEGs, evenly spread over a clip. A judgement that can't be had or read is NaN, never a guess; a server
that can't be reached ends the run with its own clear error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError

from longrl.config import TeacherServer
from longrl.diffusion.rewards.rules import Pixels
from longrl.teachers.answers import unfenced
from longrl.teachers.base import TeacherError
from longrl.teachers.pictures import jpeg_url
from longrl.teachers.server import Server

FRAMES = 4

WORDS = """\
A generator was asked for: {prompt}
It drew the {kind} you see. {question}
Answer with nothing but JSON: {{"reason": "one sentence", "score": 0}}, the score from 0 (not at all) to 10 (perfectly).
"""

SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "score": {"type": "number", "minimum": 0, "maximum": 10}},
    "required": ["reason", "score"],
    "additionalProperties": False,
}


class Judgement(BaseModel):
    """What the judge must write."""

    reason: str = ""
    score: float = Field(ge=0.0, le=10.0, allow_inf_nan=False)


class PictureJudge:
    """0 to 1 for each sample. Raises `TeacherUnavailable` when the server can't be used, from the start."""

    def __init__(self, settings: TeacherServer, question: str):
        self.server = Server(settings, "rl")
        self.question = question
        self.model = self.server.model

    def __call__(self, pixels: Pixels, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
        values = np.full(len(prompts), np.nan)

        def on_done(item: int, done: float | TeacherError) -> None:
            if not isinstance(done, TeacherError):
                values[item] = done

        async def ask(item: int) -> float:
            return await self._ask(pixels[item], prompts[item])

        self.server.run(range(len(prompts)), ask, on_done)
        return values

    async def _ask(self, clip: npt.NDArray[np.float32], prompt: str) -> float:
        chosen = np.linspace(0, len(clip) - 1, min(FRAMES, len(clip))).round().astype(int)
        frames = (clip[chosen] * 255).round().astype(np.uint8)
        kind = "clip, of which these are frames in the order of time," if len(clip) > 1 else "picture"
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": jpeg_url(one)}} for one in frames]
        content.append({"type": "text", "text": WORDS.format(prompt=prompt[:2000], kind=kind, question=self.question)})
        text = await self.server.complete([{"role": "user", "content": content}], SCHEMA, prompt[:200], "judge")
        try:
            return Judgement.model_validate_json(unfenced(text)).score / 10
        except ValidationError as error:
            raise TeacherError(f"the judgement is not the JSON asked for: {text[:80]!r}") from error
