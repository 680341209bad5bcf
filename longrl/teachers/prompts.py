"""What the `openai` teacher is told: one prompt for captions, and one for questions with a part for each category.

In the spirit of LongVideo-Reason (captions that tell visual and narrative detail; one request a category; reasoning
that speaks of the video), in our own words. Where its data needed a second pass to get captions and step numbers out of
the reasoning, the writer here is told so at once, and curation's rule `mentions_captions` drops what slips through.
The captions stand before the category's part, so that a server with prefix caching reads them once for all categories.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from longrl.teachers.base import CaptionedClip

CAPTION = """\
You are watching {span} of a longer video, as {frames} pictures in the order of time; each one comes after its time in
the video. Describe this stretch of the video in one paragraph, for somebody who cannot see it and will have to answer
detailed questions about it.

Tell what is there: the setting, every person, animal, object and text that matters, with colours, clothing, numbers,
and where each one stands (left, right, front, back, what it is next to). Tell what happens, in order: who does what to
whom or with what, how things and people move, what appears, vanishes or changes, what the camera does, where one shot
gives way to another. Say what an action seems to be for, or what somebody seems to feel, only where it can be seen.

Write "the video", "the scene" or nothing; never "frame", "picture" or "image". State only what is visible. Plain
sentences, no list, no introduction.
"""

WRITER = """\
You write questions that can only be answered by somebody who watched a long video closely. You know the video through
notes on its consecutive stretches, but everything you write is for viewers of the video, who have never seen the notes:
speak of the video and what it shows, never of notes, captions, descriptions, segments, frames or numbered stretches.
"""

NOTES = """\
Notes on the video, in the order of time. The number in brackets is for the field `evidence` only.

{notes}
"""

CATEGORIES = {
    "temporal": """\
Ask about time: what came before, after or between which events, in which order things happened, how long or how often
something went on, what changed from an earlier to a later moment. The answer must need at least two moments that lie
apart, and must not be guessable from how such things usually go.""",
    "goal": """\
Ask about goals and purposes: what somebody is trying to reach, why an action is done at the point where it is done,
what a preparation turns out to have been for, what a choice shows about an intention. The answer must follow from what
is seen to be done, over several moments, and not from common sense alone.""",
    "spatial": """\
Ask about space: where something or somebody is, relative to what; how positions, distances or directions change as
the video goes on; which way something moves; what lies along a path; what is seen from where. Name the moment or event
that is meant, so that exactly one arrangement is asked about.""",
    "plot": """\
Ask about plot and narrative: how events lead to one another, what turns the story, which role somebody or something
plays in it, how the ending answers the beginning, what links scenes that lie apart. The answer must need the whole
course of the video, or a large part of it.""",
}

TASK = """\
Write {count} different multiple-choice {questions} about this video, all of one kind.

{category}

For each of them:
- `question`: one clear question that stands on its own, without time stamps.
- `options`: {options} different short answers of the same form and about the same length, all plausible to somebody who
  did not watch, exactly one of them right. No letters or numbers in front, and never "all" or "none of the above".
- `evidence`: the bracketed numbers of all the stretches that the answer rests on.
- `reasoning`: think it through step by step as a careful viewer would, citing the moments by their time spans, such as
  "at 1:10-1:20 the woman puts the key under the mat": what is seen, what follows from it, and why the tempting wrong
  options are wrong. Never name an option by its letter, and do not begin with the answer.
- `conclusion`: one short sentence that states the right option in the words it has in `options`.
- `answer`: the letter of the right option; the first option is A.

Answer with nothing but JSON of this form:
{form}
"""

LETTERS = "ABCDEFGHIJ"
OPTIONS = 4


def caption_messages(span: str, clocks: Sequence[str], images: Sequence[str]) -> list[dict[str, Any]]:
    """The chat that asks for one clip's caption; `images` are data URLs, `clocks` their times as people write them."""
    content: list[dict[str, Any]] = []
    for clock, image in zip(clocks, images, strict=True):
        content.append({"type": "text", "text": f"{clock}"})
        content.append({"type": "image_url", "image_url": {"url": image}})
    content.append({"type": "text", "text": CAPTION.format(span=span, frames=len(images))})
    return [{"role": "user", "content": content}]


def question_messages(clips: Sequence[CaptionedClip], category: str, count: int) -> list[dict[str, Any]]:
    """The chat that asks for `count` questions of one category about a video."""
    notes = "\n\n".join(f"[{clip.index}] {clip.span}: {clip.caption}" for clip in clips)
    form = {
        "questions": [
            {
                "question": "...",
                "options": ["..."] * OPTIONS,
                "evidence": [0],
                "reasoning": "...",
                "conclusion": "...",
                "answer": "A",
            }
        ]
    }
    task = TASK.format(
        count=count,
        questions="question" if count == 1 else "questions",
        category=CATEGORIES[category],
        options=OPTIONS,
        form=json.dumps(form),
    )
    return [
        {"role": "system", "content": WRITER},
        {"role": "user", "content": NOTES.format(notes=notes) + "\n" + task},
    ]


def question_schema(count: int) -> dict[str, Any]:
    """JSON schema of the answer to `question_messages`: at most `count` questions, the reasoning before the answer.

    Only what strict structured output allows everywhere: all fields required, no others, no lengths of texts.
    """
    fields: dict[str, Any] = {
        "question": {"type": "string"},
        "options": {"type": "array", "items": {"type": "string"}, "minItems": OPTIONS, "maxItems": OPTIONS},
        "evidence": {"type": "array", "items": {"type": "integer"}},
        "reasoning": {"type": "string"},
        "conclusion": {"type": "string"},
        "answer": {"type": "string", "enum": list(LETTERS[:OPTIONS])},
    }
    item = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    questions = {"type": "array", "items": item, "minItems": 1, "maxItems": count}
    return {
        "type": "object",
        "properties": {"questions": questions},
        "required": ["questions"],
        "additionalProperties": False,
    }


def version(*texts: str) -> str:
    """Digest of prompt texts, 16 hex digits: a changed prompt makes new captions or questions."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


CAPTION_VERSION = version(CAPTION)
QUESTION_VERSION = version(WRITER, NOTES, TASK, *CATEGORIES.values(), json.dumps(question_schema(1)))
