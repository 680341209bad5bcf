"""The benchmarks: listed and up to date on their page, fair to the opponent, and quiet where they cannot measure."""

from pathlib import Path

import pytest
import torch

from benchmarks import harness
from benchmarks.prefix import micro_batches, question, repeated_logprobs
from docs import figures
from longrl.mrsp.prefix import response_group, score
from tests.separate_sequences import video

FOLDER = Path(harness.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "harness"))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_on_the_page_with_its_figures(name):
    page = figures.PAGE.read_text()
    assert f"[`{name}`](#{name})" in page
    assert f"\n## {name}\n" in page
    assert f"<!-- figures of {name} -->" in page


def test_the_page_has_the_committed_figures():
    page = figures.PAGE.read_text()
    assert page == figures.filled(page), "run `make docs`"


def test_results_become_tables(tmp_path):
    (tmp_path / "x.json").write_text(
        '{"command": "make bench NAME=x", "minutes": 1.25, "machine": {"cpu": "C", "cores": 2, "memory_gib": 8.0},'
        ' "rows": [{"n": 8, "seconds": 0.123456}], "bars": [{"name": "x.8", "value": 3.0, "bar": 4.0,'
        ' "lower_is_better": false, "met": false}]}'
    )
    page = figures.filled("<!-- figures of x -->\nold\n<!-- end -->\n", tmp_path)
    assert "`make bench NAME=x` took 1.25 minutes on 2 cores of C, 8 GiB." in page
    assert "| 8 | 0.1235 |" in page
    assert "| x.8 | 3 | at least 4 | no |" in page
    assert "old" not in page


def test_a_question_has_just_so_many_tokens(loaded_student):
    assert [len(question(loaded_student, (2, 4, 4), n).expanded) for n in (40, 41, 97)] == [40, 41, 97]


def test_repeated_prompts_compute_what_the_shared_one_does(loaded_student):
    """The opponent of `prefix` and `mrsp`: the same logprobs, by rows of their own."""
    asked = question(loaded_student, (2, 4, 4), 60)
    embeds = video(loaded_student, asked)
    answers = [[20 + i, 30 + i, 40 + i] for i in range(4)]
    with torch.no_grad():
        once = torch.cat(score(loaded_student, [response_group(asked, embeds, answers)]).logprobs[0])
        rows = repeated_logprobs(loaded_student, asked, embeds, answers)
    torch.testing.assert_close(rows, once, rtol=0, atol=2e-5)


def test_micro_batches_hold_the_trainers_budget(loaded_student):
    asked = question(loaded_student, (256, 8, 8), 5000)
    assert [len(part) for part in micro_batches(asked, [[1] * 64] * 8)] == [3, 3, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_hour_says_that_it_needs_a_gpu_and_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.main(["hour"])
    assert "needs an NVIDIA GPU" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_hour_runs_on_a_model_of_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.main(["hour", "--tiny"])
    lines = capsys.readouterr().out.splitlines()
    four, eight = (int(line.split("prompt=")[1].split()[0]) for line in lines)
    assert eight - four == 144 * (8 - 4) // 2  # tokens of two frames of 252x448: what is left is the same text
    assert all("attention_share=" in line and "failed" not in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trial_of_prefix_measures_both_sides(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.main(["prefix", "--prompts", "544", "--responses", "64", "--rounds", "1"])
    row = capsys.readouterr().out.splitlines()[0]
    assert all(f"{name}=" in row for name in ("shared", "repeated", "speedup", "limit", "peak_mib", "planned_mib"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trial_of_rl_step_runs_all_contestants(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.main(["rl_step", "--frames", "4", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert all(any(f"contestant={name} " in line for line in lines) for name in ("ours", "trl", "trl_fairest"))
    assert len({line.split("prompt=")[1].split()[0] for line in lines if "prompt=" in line}) == 1


@pytest.mark.slow
def test_a_trial_of_mrsp_fills_every_column(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.main(["mrsp", "--frames", "8", "--rounds", "1"])
    row = capsys.readouterr().out.splitlines()[0]
    assert all(f" {name}=" in row for name in ("none", "cached", "prefix", "parallel", "mib_parallel"))
