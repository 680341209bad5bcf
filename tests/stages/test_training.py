"""SFT and RL from a handful of rendered stories to a model folder: real ranks, real DeepSpeed, a real vLLM engine."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

from longrl.config import EvaluateSettings, FrameSettings, Mixture, Phase, RlSettings, SftSettings
from longrl.models import families
from longrl.training.sft import sft
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.story_corpus import Corpus, make_corpus

FRAMES = FrameSettings(budget=8, budgets=(4, 8))
STEPS = 40
SFT = SftSettings(
    phases=(
        Phase(name="captions", steps=3, warmup=1, mixture=Mixture(clip_captions=4, video_captions=1, recall_drill=4)),
        Phase(name="questions", steps=STEPS - 3, learning_rate=3e-3, warmup=5, mixture=Mixture(questions=4, reading=3)),
    ),
    questions_per_video=4,
    loss_weights=(1.0, 1.0, 1.0, 1.0),
    checkpoint_every=10,
)
# So many samples, so hot, and rounds to replace groups of equal rewards: some group differs whatever the rounding.
RL = RlSettings(
    steps=2,
    prompts_per_step=6,
    group_size=8,
    temperature=1.2,
    refills=2,
    max_tokens=24,
    learning_rate=1e-3,
    warmup=0,
    kl=0.01,
)
CALL = """
import json, sys
from pathlib import Path
from longrl.config import FrameSettings, SftSettings
from longrl.training.sft import sft
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
call = json.loads(sys.argv[1])
refs = [ArtifactRef(**ref) for ref in call["refs"]]
sft(SftSettings(**call["settings"]), FrameSettings(**call["frames"]), *refs, Warehouse(call["warehouse"]), 0)
"""
CALL_RL = CALL.replace("SftSettings", "RlSettings").replace("training.sft import sft", "training.rl import rl")
CALL_RL = CALL_RL.replace("\nsft(", "\nrl(")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), 8, brief=True, heads=2)  # vLLM wants heads of 32 on the CPU


@pytest.fixture(scope="module")
def tuned(corpus) -> ArtifactRef:
    return sft(SFT, FRAMES, corpus.model, corpus.dataset, corpus.captions, corpus.videos, corpus.warehouse, 0)


@pytest.fixture(scope="module")
def reinforced(corpus, tuned) -> ArtifactRef:
    from longrl.training.rl import rl

    return rl(RL, FRAMES, tuned, corpus.dataset, corpus.videos, corpus.warehouse, 0)


def steps(ref: ArtifactRef) -> list[dict]:
    return [json.loads(line) for line in ref.file("metrics.jsonl").read_text().splitlines()]


def curve(ref: ArtifactRef) -> list[tuple]:
    """Everything in the metrics that isn't time, memory or counted from the process's start."""
    own = ("second", "memory", "cache")
    return [tuple(str(v) for k, v in row.items() if not any(word in k for word in own)) for row in steps(ref)]


def test_sft_learns_and_says_so_step_by_step(tuned):
    rows = steps(tuned)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["phase"] for row in rows[2:4]] == ["captions", "questions"]
    assert set(rows[0]["losses"]) == {"recall_drill", "clip_captions", "video_captions"}
    assert set(rows[5]["token_accuracy"]) == {"questions", "reading"}
    assert rows[-1]["losses"]["questions"] < 0.5 * rows[3]["losses"]["questions"]
    assert tuned.facts()["skipped"] == 0


def test_sft_leaves_a_plain_model_folder(tuned, corpus):
    folder = tuned.file("hf")
    before, after = (families.load(ref.file("hf")).model.state_dict() for ref in (corpus.model, tuned))
    changed = [name for name in before if not before[name].equal(after[name])]
    assert any(".visual." in name for name in changed)
    assert any("lm_head" in name for name in changed)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert {path.name for path in corpus.model.file("hf").iterdir()} <= names
    assert not list(Path(tuned.path).glob(".checkpoints"))


def kill_after_checkpoint(code: str, call: dict, folder: Path) -> None:
    """Run a stage in a process of its own until it has a checkpoint, and kill it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    stage = subprocess.Popen([sys.executable, "-c", code, json.dumps(call)], env=environment)
    deadline = time.monotonic() + 120
    while not list(folder.glob(".draft-*/.checkpoints/step-*/state.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    stage.send_signal(signal.SIGKILL)
    stage.wait()


def test_killed_sft_goes_on_with_the_same_curve(corpus, tuned, tmp_path):
    refs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    call = {
        "refs": [asdict(ref) for ref in refs],
        "settings": SFT.model_dump(mode="json"),
        "frames": FRAMES.model_dump(mode="json"),
        "warehouse": str(tmp_path),
    }
    kill_after_checkpoint(CALL, call, tmp_path / "sft")
    resumed = sft(SFT, FRAMES, *refs, Warehouse(tmp_path), 0)
    assert resumed.facts()["resumed_from"] >= 10
    assert curve(resumed) == curve(tuned)
    name = "hf/model.safetensors"
    assert resumed.file(name).read_bytes() == tuned.file(name).read_bytes()


@pytest.mark.parametrize(("until", "taken"), [(0.0, 12), pytest.param(1.0, 15, marks=pytest.mark.slow)])
def test_a_phase_ends_when_what_it_teaches_is_known(corpus, tmp_path, until, taken):
    captions = Phase(name="captions", steps=15, until=until, budgets=(4,), mixture=Mixture(clip_captions=2))
    phases = (captions, Phase(name="questions", steps=2, mixture=Mixture(questions=1)))
    settings = SFT.model_copy(update={"phases": phases, "ranks": 1})
    refs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    rows = steps(sft(settings, FRAMES, *refs, Warehouse(tmp_path), 0))
    assert [row["step"] for row in rows] == [*range(1, taken + 1), 16, 17]
    assert [row["phase"] for row in rows[-3:]] == ["captions", "questions", "questions"]


def test_rl_trains_on_what_the_engine_sampled(reinforced):
    rows = steps(reinforced)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["reward"] < 1
        assert row["reward"] == pytest.approx(0.9 * row["accuracy"] + 0.1 * row["format"], abs=1e-5)
        assert row["parity_gap"] < 1e-3  # at step 2 this says that the new weights reached the engine
        assert row["importance_weight"] == pytest.approx(1.0, abs=1e-3)
        assert row["clip_fraction"] == 0.0
        assert row["gradient_norm"] > 0
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert rows[1]["kl"] > 0
    assert rows[0]["cache_encodes"] == 2  # the split's videos, once
    assert rows[1]["cache_hits"] == rows[0]["prompts"] + rows[1]["prompts"]
    for row in rows:
        assert row["rewards"] == {"accuracy": row["accuracy"], "format": row["format"]}
        assert row["prompts"] == row["groups"] + row["zero_variance_groups"] >= RL.prompts_per_step
        assert (row["updates"], row["penalised"], row["masked"]) == (1, row["truncated"], 0)
        spent = [row[f"seconds_{name}"] for name in ("rollout", "logprob", "forward", "backward", "update", "sync")]
        assert min(spent) > 0
        assert sum(spent) <= row["seconds"]


@pytest.mark.parametrize("zero_stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_two_ranks_on_each_sequence_take_the_steps_of_one(corpus, tmp_path, zero_stage):
    mixture = Mixture(questions=3, reading=2, clip_captions=1)
    phases = (Phase(name="mixed", steps=2, warmup=0, mixture=mixture),)
    refs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    start = families.load(corpus.model.file("hf")).model.state_dict()
    curves, ends = [], []
    for ranks in (1, 2):
        shared = {"ranks": ranks, "sequence_parallel": ranks, "zero_stage": zero_stage if ranks > 1 else 0}
        settings = SFT.model_copy(update=shared | {"phases": phases})
        ref = sft(settings, FRAMES, *refs, Warehouse(tmp_path / str(ranks)), 0)
        curves.append(steps(ref))
        ends.append(families.load(ref.file("hf")).model.state_dict())
    for one, two in zip(*curves, strict=True):
        for name in ("tokens", "token_accuracy", "exact"):
            assert two[name] == one[name]
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    moved = sum((ends[0][name] - start[name]).square().sum() for name in start)
    apart = sum((ends[0][name] - ends[1][name]).square().sum() for name in start)
    assert apart < 1e-4 * moved  # Adam's first steps are signs of gradients: tiny ones may round either way


def test_every_video_is_encoded_once_from_sft_to_evaluation(corpus, tuned, reinforced):
    from longrl.evaluation.evaluate import evaluate

    settings = EvaluateSettings(samples=0, max_tokens=8, shuffled_video_control=False, ranks=1)
    frames = FRAMES.model_copy(update={"budgets": (8,)})
    models = {"sft": tuned, "rl": reinforced}
    ref = evaluate(settings, frames, models, corpus.dataset, corpus.videos, corpus.warehouse, 0)
    (engine,) = ref.facts()["engines"]
    splits = corpus.dataset.table().group_by("split").agg(pl.col("video_id").n_unique())
    videos = dict(splits.iter_rows())
    assert engine["embeds"] == {"cached": videos["eval"], "encoded": videos["eval"]}  # RL's tower is SFT's
    assert steps(reinforced)[-1]["cache_encodes"] == videos["rl"]
    files = list(corpus.warehouse.cache("embeddings").glob("*/*/*.safetensors"))
    assert len(files) == videos["rl"] + videos["eval"]


@pytest.mark.slow
def test_killed_rl_goes_on_with_the_same_curve(corpus, tuned, reinforced, tmp_path):
    call = {
        "refs": [asdict(ref) for ref in (tuned, corpus.dataset, corpus.videos)],
        "settings": RL.model_copy(update={"checkpoint_every": 1}).model_dump(mode="json"),
        "frames": FRAMES.model_dump(mode="json"),
        "warehouse": str(tmp_path),
    }
    kill_after_checkpoint(CALL_RL, call, tmp_path / "rl")
    from longrl.training.rl import rl

    resumed = rl(RL, FRAMES, tuned, corpus.dataset, corpus.videos, Warehouse(tmp_path), 0)
    assert resumed.facts()["resumed_from"] == 1
    assert curve(resumed) == curve(reinforced)
    name = "hf/model.safetensors"
    assert resumed.file(name).read_bytes() == reinforced.file(name).read_bytes()


def test_a_frozen_tower_encodes_each_view_once(corpus, tmp_path):
    phases = (Phase(name="q", steps=4, mixture=Mixture(clip_captions=2, questions=2)),)
    settings = SFT.model_copy(update={"ranks": 1, "freeze_vision": True, "phases": phases})
    warehouse = Warehouse(tmp_path)
    refs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    tuned = sft(settings, FRAMES, *refs, warehouse, 0)
    rows, files = steps(tuned), list(warehouse.cache("embeddings").glob("*/*/*.safetensors"))
    assert [row["cache_encodes"] for row in rows] == [len(files)] * 4
    assert [row["cache_hits"] for row in rows] == [4, 8, 12, 16]
    before, after = (families.load(ref.file("hf")).model.state_dict() for ref in (corpus.model, tuned))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert not any(".visual." in name for name in changed)


def test_rl_freezes_the_tower_and_changes_the_rest(tuned, reinforced):
    before, after = (families.load(ref.file("hf")).model.state_dict() for ref in (tuned, reinforced))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert not any(".visual." in name for name in changed)


def test_undecodable_video_is_a_reject_of_training(corpus, tmp_path):
    rows = corpus.videos.table()
    lost = corpus.dataset.table().filter(pl.col("split") == "sft")["video_id"].sort()[0]
    broken = rows.with_columns(
        path=pl.when(pl.col("video_id") == lost).then(pl.lit(str(tmp_path / "gone.mp4"))).otherwise("path")
    )
    warehouse = Warehouse(tmp_path / "warehouse")
    videos = warehouse.produce("ingest", 1, {"made": "for a test"}, {}, lambda draft: draft.write(broken))
    settings = SFT.model_copy(
        update={"ranks": 1, "phases": (Phase(name="q", steps=1, mixture=Mixture(questions=2, reading=2)),)}
    )
    ref = sft(settings, FRAMES, corpus.model, corpus.dataset, corpus.captions, videos, warehouse, 0)
    assert ref.rejected().select("item", "rule").rows() == [(lost, "decode")]
