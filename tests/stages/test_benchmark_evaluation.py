"""A benchmark answered by a real (untrained) student: through vLLM, through transformers, and compared."""

import json

import polars as pl
import pytest

from longrl import cli
from longrl.config import BenchmarkSettings
from longrl.evaluation.benchmark import benchmark
from longrl.evaluation.benchmarks.base import BenchmarkError
from longrl.evaluation.candidate import CandidateError
from longrl.evaluation.results import print_results
from longrl.models.families import StudentError
from longrl.warehouse.artifacts import Warehouse
from tests.stages.quiz import FRAMES, READABLE, ROWS, student, video_mme


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A warehouse with a student, and a benchmark's folder."""
    root = tmp_path_factory.mktemp("benchmark")
    warehouse = Warehouse(root / "warehouse")
    student(warehouse)
    return warehouse, video_mme(root / "video-mme")


def settings(data, **changes) -> BenchmarkSettings:
    return BenchmarkSettings(name="videomme", data=str(data), max_tokens=12, ranks=1, workers=1, **changes)


@pytest.fixture(scope="module")
def answered(place):
    """Greedy at two budgets and two samples, through vLLM."""
    warehouse, data = place
    return benchmark(settings(data, budgets=(4, 8), samples=2), FRAMES, warehouse, seed=0)


@pytest.fixture(scope="module")
def referred(place):
    """The same through transformers."""
    warehouse, data = place
    return benchmark(settings(data, budgets=(4, 8), samples=2, engine="transformers"), FRAMES, warehouse, seed=0)


def test_there_is_a_row_for_every_item_budget_and_sample(answered):
    counts = answered.table().group_by("mode", "frames", "sample").len().sort("mode", "frames", "sample")
    assert counts.rows() == [
        ("greedy", 4, 0, ROWS), ("greedy", 8, 0, ROWS), ("sampled", 8, 0, ROWS), ("sampled", 8, 1, ROWS),
    ]  # fmt: skip


def test_what_can_be_read_is_answered_and_logged(answered):
    rows = answered.table().filter(pl.col("error").is_null())
    assert rows.height == 4 * READABLE
    assert set(rows["finish"]) <= {"stop", "length"}
    assert rows["tokens"].min() > 0
    assert rows["tokens"].max() <= 12
    assert rows["seconds"].min() > 0
    assert set(rows["pixels"]) == {28 * 28}
    assert rows["plan"].n_unique() == 3 * 2  # three films, two budgets
    assert rows["prompt"].n_unique() == READABLE


def test_the_greedy_answers_of_transformers_are_those_of_vllm(answered, referred):
    greedy = [made.table().filter(pl.col("mode") == "greedy")["response"].to_list() for made in (answered, referred)]
    assert greedy[0] == greedy[1]
    assert any(greedy[0])


def test_samples_differ_and_come_again_with_their_seeds(referred, place):
    drawn = referred.table().filter((pl.col("mode") == "sampled") & pl.col("error").is_null())
    pairs = drawn.group_by("item_id").agg("response")["response"].to_list()
    assert all(first != second for first, second in pairs)
    warehouse, data = place
    anew = Warehouse(warehouse.root, refresh=frozenset({"benchmark"}))
    again = benchmark(settings(data, samples=1, engine="transformers", limit=2), FRAMES, anew, seed=0)
    first = drawn.filter((pl.col("sample") == 0) & pl.col("item_id").is_in(["000-0", "000-1"]))
    assert again.table().filter(pl.col("mode") == "sampled")["response"].to_list() == first["response"].to_list()


def test_the_same_evaluation_is_found_and_a_smaller_one_asks_nothing(place, answered):
    warehouse, data = place
    assert benchmark(settings(data, budgets=(4, 8), samples=2), FRAMES, warehouse, seed=0).cached
    smaller = benchmark(settings(data, budgets=(4,)), FRAMES, warehouse, seed=0)
    assert smaller.facts()["reused"] == ROWS
    assert "engines" not in smaller.facts()


def test_a_prompt_longer_than_the_context_is_one_wrong_row(place):
    warehouse, data = place
    rows = json.loads((data / "test.json").read_text())[:2]
    rows[0]["question"] = "Why? " * 20_000
    other = data.parent / "long"
    other.mkdir()
    (other / "data").symlink_to(data / "data")
    (other / "test.json").write_text(json.dumps(rows))
    made = benchmark(settings(other, engine="transformers"), FRAMES, warehouse, seed=0)
    assert "the model's context is 32768" in made.table()["error"][0]
    assert made.table()["error"][1] is None


def test_the_printed_table_has_groups_frames_and_the_named_errors(answered, capsys):
    print_results(answered.path and answered.file("results.json").parent)
    printed = capsys.readouterr().out
    for words in ("Video-MME: rl", "10 questions, 8 frames", "duration: short", "4 frames", "sampled", "(003-0)"):
        assert words in printed


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_questions(place, answered, capsys):
    warehouse, data = place
    other = student(warehouse, seed=1, stage="sft")
    second = benchmark(settings(data, model=other.path, budgets=(8,)), FRAMES, warehouse, seed=0)
    assert cli.main(["compare", answered.key, second.key, "--json", "--warehouse", str(warehouse.root)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"], found["second"], found["frames"], found["questions"]) == (
        "rl", f"sft-{other.key[:6]}", 8, ROWS,
    )  # fmt: skip
    assert sum(found[name] for name in ("better", "worse", "both_right", "both_wrong")) == ROWS
    assert found["by_group"]["duration: short"]["questions"] == 6
    assert cli.main(["compare", answered.path, second.path]) == 0
    assert "10 questions that both were asked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "sft"}, CandidateError, "run `make train` first"),
        ({"model": "/no/such/folder"}, CandidateError, "no such folder"),
        ({"model": "."}, StudentError, r"MODEL=\."),
        ({"name": "video-me"}, BenchmarkError, "video"),
        ({"data": ""}, BenchmarkError, "DATA"),
        ({"data": "/no/such/folder"}, BenchmarkError, "no folder"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, place, changes, error, words):
    warehouse = Warehouse(tmp_path / "warehouse")
    student(warehouse)
    with pytest.raises(error, match=words):
        benchmark(settings(place[1]).model_copy(update=changes), FRAMES, warehouse, seed=0)
