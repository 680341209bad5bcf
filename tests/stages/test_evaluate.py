"""The evaluation stage with real films, a real (untrained) student and real engines in subprocesses."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from longrl.config import EvaluateSettings, FrameSettings
from longrl.evaluation.asks import gather
from longrl.evaluation.evaluate import derangement, evaluate, plan_asks
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from tests.made_run import make_run
from tests.tiny_student import build_student

FRAMES = FrameSettings(budgets=(4, 8), budget=8, height=28, width=28)
SETTINGS = EvaluateSettings(samples=2, max_tokens=12, ranks=2)
QUESTIONS, VIDEOS = 18, 3


def student(warehouse: Warehouse, stage: str, seed: int) -> ArtifactRef:
    """An untrained student as a stage would have left it; the seed decides its weights."""

    def build(draft: Draft) -> None:
        build_student(draft.folder / "hf", hidden=128, seed=seed)  # vLLM on the CPU needs heads of 32 or more

    return warehouse.produce(stage, 1, {"seed": seed}, {}, build)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Films, dataset and three students; one film is lost after it was ingested."""
    root = tmp_path_factory.mktemp("evaluate")
    _, refs, warehouse = make_run(root, count=6, held_out=VIDEOS, models=())
    models = {name: student(warehouse, stage, i) for i, (name, stage) in enumerate(STAGES.items())}
    return refs, models, warehouse


STAGES = {"base": "model", "sft": "sft", "rl": "rl"}


@pytest.fixture(scope="module")
def lost(run):
    """The held-out video whose file is gone."""
    refs, _, _ = run
    video = min(refs["curate"].table().filter(pl.col("split") == "eval")["video_id"])
    path = refs["ingest"].table().filter(pl.col("video_id") == video)["path"][0]
    Path(path).unlink()
    return video


@pytest.fixture(scope="module")
def evaluated(run, lost):
    refs, models, warehouse = run
    return evaluate(SETTINGS, FRAMES, models, refs["curate"], refs["ingest"], warehouse, seed=0)


def test_every_question_has_a_row_for_every_model_mode_and_budget(evaluated):
    counts = Counter(evaluated.table().select("model", "mode", "frames", "sample").iter_rows())
    runs = {(m, "greedy", n, 0) for m in STAGES for n in (4, 8)}
    runs |= {(m, "sampled", 8, i) for m in ("sft", "rl") for i in (0, 1)} | {("rl", "shuffled_video", 8, 0)}
    assert counts == dict.fromkeys(runs, QUESTIONS)


def test_a_lost_video_is_wrong_and_says_why(evaluated, lost):
    rows = evaluated.table().filter((pl.col("video_id") == lost) & (pl.col("mode") != "shuffled_video"))
    assert rows.height == QUESTIONS // VIDEOS * (3 * 2 + 2 * 2)
    assert not rows["correct"].any()
    assert set(rows["finish"]) == {"error"}
    assert all("gone" in reason for reason in rows["error"])


def test_readable_videos_are_answered(evaluated, lost):
    rows = evaluated.table().filter((pl.col("video_id") != lost) & (pl.col("mode") != "shuffled_video"))
    assert rows["error"].null_count() == rows.height
    assert set(rows["finish"]) <= {"stop", "length"}
    assert 0 < rows["tokens"].min() <= rows["tokens"].max() <= SETTINGS.max_tokens


def test_models_with_other_weights_answer_otherwise(evaluated, lost):
    """Weights really are changed in the engine: students of other seeds write other texts."""
    rows = evaluated.table().filter((pl.col("mode") == "greedy") & (pl.col("video_id") != lost))
    texts = {
        model: rows.filter(pl.col("model") == model).sort("question_id", "frames")["response"].to_list()
        for model in STAGES
    }
    assert texts["base"] != texts["sft"] != texts["rl"] != texts["base"]


def test_answers_equal_those_of_transformers(run, evaluated, lost):
    """Greedy text of the last model against transformers' own forward with our positions, token by token."""
    import torch

    from longrl.models import families
    from longrl.models.chat import question_text
    from longrl.video.decode import FrameCache
    from longrl.video.sample import plan_frames

    refs, models, warehouse = run
    pupil = families.load(models["rl"].file("hf"))
    question = refs["curate"].table().filter((pl.col("split") == "eval") & (pl.col("video_id") != lost)).to_dicts()[0]
    film = refs["ingest"].table().filter(pl.col("video_id") == question["video_id"]).to_dicts()[0]
    plan = plan_frames(film["duration"], 8, 28, 28)
    pixels, grid = pupil.patches(FrameCache(warehouse.cache("frames")).get(film["video_id"], film["path"], plan))
    prompt = pupil.chat.prompt(question_text(question["question"], question["options"]), [pupil.video(plan)])
    with torch.no_grad():
        embeds = pupil.encode([pixels], [grid])[0]
        ids: list[int] = []
        while len(ids) < SETTINGS.max_tokens and pupil.chat.end not in ids:
            x = pupil.token_embeds(torch.tensor([prompt.expanded + ids]), {pupil.chat.pads["video"]: embeds})
            hidden = pupil.text_hidden(x, pupil.positions(prompt, len(ids))[:, None])
            ids.append(int(pupil.model.lm_head(hidden[0, -1]).argmax()))
    row = evaluated.table().filter(
        (pl.col("model") == "rl")
        & (pl.col("mode") == "greedy")
        & (pl.col("frames") == 8)
        & (pl.col("question_id") == question["question_id"])
    )
    assert row["response"].to_list() == [pupil.chat.decode(ids)]


@pytest.mark.slow
def test_another_sample_or_model_redoes_nothing(run, evaluated):
    refs, models, warehouse = run
    again = evaluate(
        SETTINGS.model_copy(update={"samples": 3, "ranks": 1}),
        FRAMES,
        models,
        refs["curate"],
        refs["ingest"],
        warehouse,
        seed=0,
    )
    open_rows = again.facts()["responses"] - again.facts()["reused"]
    readable = QUESTIONS * (VIDEOS - 1) // VIDEOS
    lost_rows = QUESTIONS // VIDEOS * (3 * 2 + 2 * 3 + 1)  # errors are tried again
    assert open_rows == 2 * readable + lost_rows
    old = evaluated.table().filter(pl.col("error").is_null())
    assert again.table().join(old, on=old.columns, how="semi", nulls_equal=True).height == old.height


def test_the_same_evaluation_is_found(run, evaluated):
    refs, models, warehouse = run
    again = evaluate(
        SETTINGS.model_copy(update={"ranks": 1}), FRAMES, models, refs["curate"], refs["ingest"], warehouse, 0
    )
    assert (again.cached, again.key) == (True, evaluated.key)


KILLED = """
import sys
from longrl.warehouse.artifacts import Warehouse
from tests.stages.test_evaluate import evaluate_two
evaluate_two(Warehouse(sys.argv[1]))
"""


def evaluate_two(warehouse: Warehouse) -> ArtifactRef:
    """A smaller evaluation whose answers nobody has yet."""
    settings = EvaluateSettings(samples=0, max_tokens=12, ranks=1)
    frames = FrameSettings(budgets=(4, 6), budget=6, height=28, width=28)
    refs = {name: warehouse.latest(name) for name in ("model", "sft", "curate", "ingest")}
    models = {"base": refs["model"], "sft": refs["sft"]}
    return evaluate(settings, frames, models, refs["curate"], refs["ingest"], warehouse, seed=1)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(run, evaluated):
    _, _, warehouse = run
    before = ledger_size(warehouse)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(warehouse.root)], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    deadline = time.monotonic() + 120
    while ledger_size(warehouse) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)  # the rank ends with its launcher
    kept = ledger_size(warehouse)
    assert kept > before
    done = evaluate_two(warehouse)
    assert done.rows == QUESTIONS * (2 * 2 + 1)
    assert done.facts()["reused"] > 0


def ledger_size(warehouse: Warehouse) -> int:
    import sqlite3

    with sqlite3.connect(warehouse.root / "evaluate" / "ledger.sqlite") as connection:
        return connection.execute("SELECT count(*) FROM items").fetchone()[0]


def test_no_held_out_question_is_an_empty_table(run):
    refs, models, warehouse = run

    def build(draft: Draft) -> None:
        draft.write(refs["curate"].table().with_columns(split=pl.lit("sft")))

    none = warehouse.produce("curate", 1, {"made": "all for SFT"}, {}, build)
    assert evaluate(SETTINGS, FRAMES, models, none, refs["ingest"], warehouse, seed=0).rows == 0


def test_open_questions_are_left_out_and_counted(run):
    refs, models, warehouse = run
    rows = refs["curate"].table().with_columns(kind=pl.lit("open"), options=pl.lit([], pl.List(pl.String)))
    dataset = warehouse.produce("curate", 1, {"kind": "open"}, {}, lambda draft: draft.write(rows))
    made = evaluate(SETTINGS, FRAMES, models, dataset, refs["ingest"], warehouse, seed=0)
    assert made.rows == 0
    assert made.facts()["open_questions_left_out"] == QUESTIONS


def asks_for(seed=0, weights=None, samples=2):
    questions = [
        {
            "question_id": f"q{i}",
            "video_id": f"v{i // 2}",
            "question": f"Which {i}?",
            "options": ["a", "b"],
            "answer": "A",
        }
        for i in range(6)
    ]
    films = {f"v{i}": {"duration": 10.0 + i} for i in range(2)}  # v2 was quarantined
    weights = weights or {"base": "0", "sft": "1", "rl": "2"}
    return plan_asks(EvaluateSettings(samples=samples), FRAMES, questions, films, weights, seed)


def test_the_control_shows_every_question_another_video():
    control = [ask for ask in asks_for() if ask.mode == "shuffled_video"]
    assert len(control) == 6
    right = {ask.question_id: ask.seen for ask in asks_for() if ask.mode == "greedy"}
    assert all(ask.seen != right[ask.question_id] for ask in control)


def test_a_derangement_moves_every_name_and_uses_each_once():
    names = [f"v{i}" for i in range(20)]
    moved = derangement(names, seed=3)
    assert all(name != other for name, other in moved.items())
    assert sorted(moved.values()) == sorted(names)


def test_one_video_has_no_control():
    assert derangement(["only"], seed=0) == {}


def test_a_question_without_its_video_is_asked_of_nobody_and_still_counts():
    lost = [ask for ask in asks_for() if ask.plan is None and ask.mode == "greedy"]
    assert {ask.seen for ask in lost} == {"v2"}
    assert all("not among" in ask.error for ask in lost)


def test_samples_of_a_question_share_one_request_and_models_share_seeds():
    asks = [ask for ask in asks_for() if ask.mode == "sampled" and ask.plan]
    requests = gather(asks, {ask.seen: "film.mp4" for ask in asks})
    assert {len(request["keys"]) for request in requests} == {2}
    assert len({(request["text"], request["seed"]) for request in requests}) == 4  # two models, four questions each


def test_a_gap_in_the_samples_is_asked_for_with_its_own_seed():
    asks = [ask for ask in asks_for(samples=4) if ask.place == ("rl", "q0", "sampled", 8) and ask.sample in (0, 1, 3)]
    requests = gather(asks, {ask.seen: "film.mp4" for ask in asks})
    assert [(request["seed"] - asks[0].seed, len(request["keys"])) for request in requests] == [(0, 2), (3, 1)]


def test_equal_weights_have_equal_keys_and_others_do_not():
    keys = {
        ask.model: ask.key
        for ask in asks_for(weights={"base": "0", "sft": "1", "rl": "1"})
        if ask.place[1:] == ("q0", "greedy", 8)
    }
    assert keys["sft"] == keys["rl"] != keys["base"]


def test_a_sample_has_another_key_than_the_greedy_answer():
    asks = [ask for ask in asks_for() if ask.model == "rl" and ask.question_id == "q0" and ask.frames == 8]
    assert len({ask.key for ask in asks}) == len(asks)
