"""summary.json against counts made by hand from the same tables."""

import doctest
import io
import json

import polars as pl
import pytest
from rich.console import Console

from longrl.evaluation import charts, summary
from longrl.evaluation.summary import results_table, summarize
from tests.made_run import make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("summary"), count=8, held_out=4)


@pytest.fixture(scope="module")
def result(made):
    config, refs, _ = made
    return summarize(config, refs, "run-1", minutes=3.14159)


def test_it_has_every_field_of_the_contract(result):
    fields = (
        "run_id recipe seed minutes videos clips captions questions splits accuracy by_category by_frames reward stages"
    )
    assert set(fields.split()) <= result.keys()
    assert result["accuracy"].keys() == {"chance", "base", "sft", "rl"}
    assert result["sampled_accuracy"].keys() == result["sampled_accuracy_se"].keys() == {"sft", "rl"}
    assert result["stages"][0].keys() == {"name", "key", "cached", "seconds", "rows", "rejects"}


def test_counts_are_those_of_the_tables(made, result):
    _, refs, _ = made
    assert result["videos"] == {"ok": 8, "quarantined": 0}
    assert result["clips"] == result["captions"] == 32
    assert result["questions"]["written"] == result["questions"]["accepted"] == sum(result["splits"].values()) == 48
    assert result["questions"]["rejected"] == {"duplicate": 3, "option-balance": 2, "rule 0": 1}
    assert result["splits"]["eval"] == 24
    assert [stage["name"] for stage in result["stages"]] == list(refs)


def test_accuracy_is_the_share_of_all_held_out_questions(made, result):
    _, refs, _ = made
    rows = refs["evaluate"].table().to_dicts()
    right = sum(r["correct"] for r in rows if (r["model"], r["mode"], r["frames"]) == ("rl", "greedy", 16))
    assert result["accuracy"]["rl"] == pytest.approx(right / 24)


def test_sampled_accuracy_is_the_mean_over_all_samples(made, result):
    _, refs, _ = made
    right = [r["correct"] for r in refs["evaluate"].table().to_dicts() if (r["model"], r["mode"]) == ("sft", "sampled")]
    assert len(right) == 24 * 8
    assert result["sampled_accuracy"]["sft"] == pytest.approx(sum(right) / len(right))


def test_categories_add_up_to_the_whole(result):
    parts = result["by_category"].values()
    assert sum(part["questions"] for part in parts) == 24
    assert sum(part["questions"] * part["rl"] for part in parts) / 24 == pytest.approx(result["accuracy"]["rl"])


def test_the_largest_budget_is_the_headline(result):
    assert list(result["by_frames"]) == ["4", "8", "16"]
    assert result["by_frames"]["16"] == result["accuracy"]["rl"]
    assert result["by_frames_models"]["sft"]["16"] == result["accuracy"]["sft"]


def test_chance_is_one_of_four(result):
    assert result["accuracy"]["chance"] == 0.25


def test_a_gain_says_its_error(result):
    gain = result["gains"]["rl_minus_sft"]
    assert gain["mean"] == pytest.approx(result["accuracy"]["rl"] - result["accuracy"]["sft"])
    assert gain["text"] == f"RL − SFT, greedy: {100 * gain['mean']:+.1f} ± {100 * gain['se']:.1f} points"


def test_an_error_row_is_wrong_and_stays_in_the_denominator(made):
    _, refs, _ = made
    broken = pl.col("question_id") == pl.col("question_id").min()
    table = (
        refs["evaluate"]
        .table()
        .with_columns(correct=pl.col("correct") & ~broken, error=pl.when(broken).then(pl.lit("gone")))
    )
    rows = summary.greedy(table, 16)
    judged = summary.judged(rows, "rl")
    assert judged.count == 24
    assert judged.mean == pytest.approx(rows.filter(pl.col("model") == "rl")["correct"].sum() / 24)


def test_rewards_are_those_of_the_steps(result):
    assert len(result["reward"]) == 40


def test_it_is_plain_json(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("models", [(), ("base",), ("base", "sft")])
def test_what_was_not_measured_is_null(tmp_path, models):
    config, refs, _ = make_run(tmp_path, count=3, held_out=1, models=models)
    result = summarize(config, refs, "run-2", minutes=1.0)
    assert (result["accuracy"]["rl"], result["sampled_accuracy"]["rl"], result["gains"]["rl_minus_sft"]) == (None,) * 3
    assert result["final_model"] == (models[-1] if models else None)
    assert result["reward"] == []


def test_no_held_out_question_has_no_accuracy(tmp_path):
    config, refs, _ = make_run(tmp_path, count=3, held_out=0)
    result = summarize(config, refs, "run-3", minutes=1.0)
    assert set(result["accuracy"].values()) == {None}
    assert result["by_category"] == {}


def test_the_table_shows_each_category_with_its_error(result):
    out = io.StringIO()
    Console(file=out, width=100).print(results_table(result))
    rl, se = result["by_category"]["goal"]["rl"], result["by_category_se"]["goal"]["rl"]
    line = next(line for line in out.getvalue().splitlines() if "goal" in line)
    assert f"{100 * rl:.1f} ± {100 * se:.1f}" in line
    assert "RL − SFT, sampled" in out.getvalue()


@pytest.mark.parametrize("module", [summary, charts])
def test_the_examples_in_the_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_the_right_video_is_compared_with_another_one(result):
    gain = result["gains"]["right_minus_shuffled_video"]
    assert gain["mean"] == pytest.approx(result["accuracy"]["rl"] - result["shuffled_video"]["accuracy"])
