"""Answers of the `openai` teacher, read and checked: captions, summaries, questions and rewritings.

Nothing is trusted. What does not have the right fields, is no JSON or is in another language is a `TeacherError` with
the reason, which costs as little as it can: one object of a caption, one question of several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longrl.teachers.base import Caption, Clip, QuestionDraft, TeacherError
from longrl.teachers.notes import Note
from longrl.teachers.prompts import LETTERS
from longrl.teachers.script import check_language

Form = TypeVar("Form", bound=BaseModel)

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

    options: list[str] = Field(min_length=2, max_length=len(LETTERS))
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


def unfenced(answer: str) -> str:
    """A model's answer without the code fence it may stand in."""
    return re.sub(r"^```(?:json)?\s*|\s*```$", "", answer.strip())


def read_json(answer: str) -> Any:
    """The JSON in a model's answer, also from within a code fence; raises `TeacherError`."""
    text = unfenced(answer)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TeacherError(f"the answer is not the JSON asked for ({error}): {text[:80]!r}") from None


def read_form(answer: str, form: type[Form], what: str) -> Form:
    """The form that an answer fills in; raises `TeacherError` saying that it is not `what` was asked for."""
    try:
        return form.model_validate(read_json(answer))
    except ValidationError as error:
        raise TeacherError(f"the answer is not {what} asked for: {fault(error)}") from None


def read_caption(answer: str, clip: Clip) -> Caption:
    """The caption and its objects in a model's answer; what is no object of this clip is left out and counted.

    Raises `TeacherError` when there is no caption.
    """
    written = read_form(answer, WrittenCaption, "the caption")
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
    named = {int(number) for number in re.findall(r"\[(\d{1,9})", text)}
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
        if not count:
            continue
        entries = found[field]
        if not entries or not isinstance(entries, list):
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
    if options and fields.answer not in LETTERS[: len(options)]:
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
    written = read_form(answer, WrittenRewrite, "the rewriting")
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
