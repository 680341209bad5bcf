"""RL runs that must end in words, and one that learns from open answers, with real ranks and a real engine."""

import json
import re

import polars as pl
import pytest

from longrl.config import FrameSettings, Mixture, Phase, RlSettings, SftSettings, TeacherServer
from longrl.training.rank import TrainingError
from longrl.training.rl import rl
from longrl.training.sft import sft
from longrl.warehouse.artifacts import Warehouse, digest_folder
from tests.stages.misbehaving_server import MisbehavingServer, text_of
from tests.story_corpus import make_corpus

pytestmark = pytest.mark.slow

FRAMES = FrameSettings(budget=4, budgets=(4,))
RL = RlSettings(steps=9, prompts_per_step=2, group_size=2, max_tokens=8, ranks=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 4, brief=True, heads=2)


@pytest.fixture(scope="module")
def tuned(corpus):
    phases = (Phase(name="q", steps=2, mixture=Mixture(questions=2)),)
    settings = SftSettings(phases=phases, ranks=1)
    return sft(settings, FRAMES, corpus.model, corpus.dataset, corpus.captions, corpus.videos, corpus.warehouse, 0)


def rewarding(value, folder):
    """Settings of RL in which each response earns this."""
    (folder / "mine.py").write_text(f"def mine(response):\n    return {value}\n")
    return RL.model_copy(update={"rewards": {f"{folder}/mine.py:mine": 1.0}, "patience": 3})


def rows_of(log):
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(row["gradient_norm"] is row["loss"] is None for row in rows)
    return rows


def test_a_run_with_nothing_to_learn_from_ends_early_and_says_why(corpus, tuned, tmp_path, caplog):
    settings = rewarding("1.0", tmp_path)
    trained = rl(settings, FRAMES, tuned, corpus.dataset, corpus.videos, Warehouse(tmp_path / "warehouse"), 0)
    facts = trained.facts()
    assert re.match(r"in 3 steps in a row .* raise rl\.temperature", facts["ended_early"])
    assert f"RL ends at step 3 of 9: {facts['ended_early']}" in caplog.text
    assert facts["steps"] == 3
    assert [row["zero_variance_groups"] for row in rows_of(trained.file("metrics.jsonl"))] == [2, 2, 2]
    assert digest_folder(trained.file("hf")) == digest_folder(tuned.file("hf"))


def test_rewards_that_are_no_numbers_end_in_words(corpus, tuned, tmp_path):
    settings = rewarding("float('nan')", tmp_path)
    with pytest.raises(TrainingError, match="5 steps in a row had a loss or reward"):
        rl(settings, FRAMES, tuned, corpus.dataset, corpus.videos, Warehouse(tmp_path / "warehouse"), 0)
    [log] = (tmp_path / "warehouse").glob("rl/.draft-*/metrics.jsonl")
    assert [row["not_finite_groups"] for row in rows_of(log)] == [2, 2, 2, 2]


def test_the_parity_gate_stops_a_run_before_anything_is_trained(corpus, tuned, tmp_path):
    """The planted defect, flat positions in the trainer, comes in with a reward of one's own."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from longrl.models.base import Student\n"
        "right = Student.positions\n"
        "def flat(*arguments, **options):\n"
        "    return torch.arange(right(*arguments, **options).shape[1]).expand(3, -1)\n"
        "Student.positions = flat\n"
        "def mine(response):\n"
        "    return float(len(response.text))\n"
    )
    settings = RL.model_copy(update={"rewards": {f"{tmp_path}/mine.py:mine": 1.0}})
    with pytest.raises(TrainingError, match=r"question \S+, sample \d: token \d+ .* Frame plan \w+; video of grid \("):
        rl(settings, FRAMES, tuned, corpus.dataset, corpus.videos, Warehouse(tmp_path / "warehouse"), 0)
    [log] = (tmp_path / "warehouse").glob("rl/.draft-*/metrics.jsonl")
    assert rows_of(log) == []
    assert not list((tmp_path / "warehouse").glob("rl/*/hf"))


def test_weights_spread_over_ranks_pass_the_gate_and_are_trained(corpus, tuned, tmp_path):
    """ZeRO-3, and a head tied to the embedding."""
    (tmp_path / "mine.py").write_text("def mine(response):\n    return float(len(response.text))\n")
    changes = {"rewards": {f"{tmp_path}/mine.py:mine": 1.0}, "zero_stage": 3, "ranks": 2, "steps": 2, "group_size": 4}
    settings = RL.model_copy(update=changes | {"truncated": "keep", "updates_per_batch": 2, "prompts_per_step": 4})
    trained = rl(settings, FRAMES, tuned, corpus.dataset, corpus.videos, Warehouse(tmp_path / "warehouse"), 0)
    rows = [json.loads(line) for line in trained.file("metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["gradient_norm"] > 0 for row in rows)


def test_open_answers_are_learned_from_by_a_judge_s_word(corpus, tuned, tmp_path):
    dataset = corpus.dataset.table().with_columns(
        kind=pl.lit("open"), options=pl.lit([], dtype=pl.List(pl.String)), answer=pl.lit("the red one")
    )
    warehouse = Warehouse(tmp_path)
    opened = warehouse.produce("curate", 1, {"made": "open"}, {}, lambda draft: draft.write(dataset))

    def judge(handler):
        said = text_of(handler.body).split("Given answer:")[1].splitlines()[0]
        score = len(said) % 5 / 4
        content = json.dumps({"reason": "", "score": score}) if len(said) % 7 else "I will not say."
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        handler.send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    with MisbehavingServer(judge) as server:
        changes = {
            "steps": 2, "group_size": 6, "rewards": {"judge": 1.0}, "truncated": "keep", "algorithm": "grpo",
            "updates_per_batch": 2, "learning_rate": 1e-3, "warmup": 0,
            "server": TeacherServer(base_url=server.url, retries=0),
        }  # fmt: skip
        trained = rl(RL.model_copy(update=changes), FRAMES, tuned, opened, corpus.videos, warehouse, 0)
    rows = [json.loads(line) for line in trained.file("metrics.jsonl").read_text().splitlines()]
    assert trained.facts()["judge"] == "first-model"
    assert trained.facts()["open_questions_left_out"] == 0
    for row in rows:
        assert row["accuracy"] is None
        assert 0 < row["rewards"]["judge"] < 1
        assert 1 <= row["updates"] <= 2
        assert row["seconds_logprob"] > 0
        assert row["truncated"] > 0 == row["penalised"]
    assert server.requests
