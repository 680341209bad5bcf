"""What is read of a model's answers, and what is not."""

import json

import pytest

from longrl.teachers.answers import read_questions, read_summary
from longrl.teachers.base import QuestionDraft, TeacherError
from longrl.teachers.notes import Note
from tests.stages.teaching import one_question


@pytest.mark.parametrize(
    "text", ["nothing of use", '{"questions": ', '{"items": []}', "[]", '{"questions": []}', '{"questions": 3}']
)
def test_an_answer_that_is_no_json_is_an_error(text):
    with pytest.raises(TeacherError, match=r"not the JSON asked for|no questions"):
        read_questions(text, "plot", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"question": " "},
        {"options": ["one"]},
        {"options": "abcd"},
        {"answer": "a red box"},
        {"evidence": [10**30]},
        {"evidence": [-1]},
        {"reasoning": ""},
        {"question": "\ud800?"},
    ],
)
def test_a_malformed_question_leaves_the_others(changes):
    bad, good = read_questions(json.dumps({"questions": [one_question(**changes), one_question()]}), "plot", 2)
    assert isinstance(bad, TeacherError)
    assert isinstance(good, QuestionDraft)


def test_json_in_a_code_fence_is_read_and_surplus_dropped():
    text = "```json\n" + json.dumps({"questions": [one_question()] * 3}) + "\n```"
    assert len(read_questions(text, "goal", 2)) == 2


@pytest.mark.parametrize("unasked", [[one_question()], {"0": one_question()}, "none", 3])
def test_kinds_of_questions_that_were_not_asked_for_are_left_out(unasked):
    text = json.dumps({"questions": unasked, "open_questions": [one_question(answer="A red box.")]})
    (draft,) = read_questions(text, "plot", 0, 1)
    assert (draft.kind, draft.answer) == ("open", "A red box.")


@pytest.mark.parametrize("text", ["Things happen.", "[7] a dog", "[0] a cat, [1234567890] a dog", f"[{'9' * 5000}]"])
def test_a_summary_of_other_clips_is_an_error(text):
    notes = [Note(n, n, f"0:0{n}-0:0{n + 1}", "A cat.") for n in range(3)]
    with pytest.raises(TeacherError, match="the summary of clips 0 to 2 names"):
        read_summary(text, notes, "")
