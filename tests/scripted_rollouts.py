"""Questions whose responses are scripted, for tests of what RL makes of them: no engine, no model.

A question's `script` has a letter for each sample: R(ight), W(rong), C(ut off), N (a reward that is not a number).
"""

from __future__ import annotations

from longrl.config import RlSettings
from longrl.models.prompt import Prompt
from longrl.rollout.request import Request, Rollout
from longrl.training.algorithms import algorithm
from longrl.training.curriculum import curriculum
from longrl.training.rewards import Response, Rewards
from longrl.training.rl_rollout import Collector
from longrl.training.stopwatch import Stopwatch
from longrl.video.sample import FramePlan
from longrl.video.views import View

TEXTS = {
    "R": "<think>a</think><answer>B</answer>",
    "W": "<think>a</think><answer>A</answer>",
    "C": "<think>a",
    "N": "what cannot be judged",
}


def question(number: int, script: str) -> dict:
    """A row of the dataset."""
    return {
        "question_id": f"q{number}", "video_id": f"v{number}", "kind": "choice", "question": f"Which is {number}?",
        "options": ["no", "yes"], "answer": "B", "pass_rate": None, "script": script,
    }  # fmt: skip


def not_a_number(response: Response) -> float:
    """A reward that fails in silence for some."""
    return float("nan") if response.text == TEXTS["N"] else 0.0


class Scripted:
    """Stands for prompts and sampler; `seeds` keeps the requests' own."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def views(self, row: dict):
        return (View("v", "v.mp4", FramePlan((0.0,), 28, 28)),)

    def request(self, row: dict, settings: RlSettings, seed: int) -> Request:
        self.seeds.append(seed)
        prompt = Prompt(((1, 2),), (3, *range(ord("A"), ord("A") + len(row["script"]))))
        request = Request(prompt, (), settings.group_size, settings.temperature, settings.max_tokens, seed)
        object.__setattr__(request, "script", row["script"])
        return request

    def generate(self, requests: list[Request]) -> list[list[Rollout]]:
        return [[rollout(letter) for letter in request.script] for request in requests]  # type: ignore[attr-defined]


def rollout(letter: str) -> Rollout:
    """A response of as many tokens as its letter's place in the alphabet."""
    count = ord(letter) - ord("A") + 1
    return Rollout([7] * count, [-1.0] * count, TEXTS[letter], "length" if letter == "C" else "stop")


def collector(scripts: list[str], seed: int = 0, **changes) -> tuple[Collector, Scripted]:
    """A collector over questions with these scripts, for this rank of the process group."""
    settings = RlSettings(**{"group_size": len(scripts[0]), "max_tokens": 96} | changes)
    rows = [question(number, script) for number, script in enumerate(scripts)]
    cycle = curriculum(settings.order, f"{seed} rl", rows, [9] * len(rows), settings.prompts_per_step)
    script = Scripted()
    rewards = Rewards(settings)
    return Collector(settings, seed, algorithm(settings), cycle, script, script, rewards, Stopwatch()), script
