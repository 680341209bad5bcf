"""The reward of open answers, from a real server that behaves well or not."""

import json

import pytest

from longrl.config import RlSettings, TeacherServer
from longrl.teachers.base import TeacherUnavailable
from longrl.training.launch import free_port
from longrl.training.rewards import Response, Rewards
from tests.stages.misbehaving_server import MisbehavingServer, answer, status, text_of


def made(text, finish="stop", question="What falls?") -> Response:
    return Response(f"<think>So.</think><answer>{text}</answer>", finish, 20, 100, "open", question, (), "a red ball")


def settings(server, **changes) -> RlSettings:
    address = TeacherServer(base_url=server.url, retries=0, concurrency=1)
    return RlSettings(rewards={"judge": 1.0, "format": 0.1}, server=address, **changes)


def says(score):
    return answer(json.dumps({"reason": "It is.", "score": score}))


@pytest.fixture
def server():
    with MisbehavingServer(says(0.5)) as server:
        yield server


def test_answers_are_judged_once_each_against_the_right_one(server):
    responses = [made("a ball"), made("a box"), made("a ball"), made("a ball", question="What rolls?"), made(" ")]
    server.replies = [says(1.0), says(0), says(0.25)]
    judged = Rewards(settings(server))(responses)
    assert [one.parts["judge"] for one in judged] == [1.0, 0.0, 1.0, 0.25, 0.0]
    assert [one.total for one in judged] == pytest.approx([1.1, 0.1, 1.1, 0.35, 0.1])
    asked = [text_of(body) for body in server.requests]
    assert len(asked) == 3
    assert all("a red ball" in text and "What" in text for text in asked)
    assert "<think>" not in asked[0]


@pytest.mark.parametrize(
    "reply",
    [answer("It is right."), says(1.5), says(-1), answer(None), answer('{"score": "nan"}'), status(400, "no")],
    ids=["prose", "above 1", "below 0", "nothing", "nan", "refused"],
)
def test_a_bad_judgement_is_missing_and_counted(server, reply):
    server.replies = [says(1.0), reply, says(0.5)]
    judged = Rewards(settings(server))([made("one"), made("two"), made("three")])
    assert [one.total for one in judged] == [1.1, None, 0.6]
    assert [one.outcome for one in judged] == ["judged", "unjudged", "judged"]


def test_a_response_that_was_cut_off_costs_no_request(server):
    for truncated, total, outcome in (("penalise", 0.0, "penalised"), ("mask", None, "masked")):
        [judged] = Rewards(settings(server, truncated=truncated))([made("a ball", finish="length")])
        assert (judged.total, judged.outcome) == (total, outcome)
    assert server.requests == []


def test_choices_are_read_and_not_judged(server):
    choice = Response("<think>B.</think><answer>B</answer>", "stop", 9, 100, "choice", "Which?", ("no", "yes"), "B")
    [judged] = Rewards(settings(server).model_copy(update={"rewards": {"accuracy": 0.9, "judge": 1.0}}))([choice])
    assert judged.parts == {"accuracy": 1.0, "judge": None}
    assert server.requests == []


def test_a_server_out_of_reach_is_one_clear_error():
    nobody = TeacherServer(base_url=f"http://127.0.0.1:{free_port()}/v1", retries=0)
    with pytest.raises(TeacherUnavailable, match=r"start the server or set rl\.server\.base_url"):
        Rewards(RlSettings(rewards={"judge": 1.0}, server=nobody))


def test_a_server_that_fails_in_the_middle_is_one_too(server):
    rewards = Rewards(settings(server))
    server.usual = status(401, "who are you")
    with pytest.raises(TeacherUnavailable, match="valid key in OPENAI_API_KEY"):
        rewards([made("a ball")])
