"""Qwen2.5-Omni through SFT, RL and evaluation on videos with their sound, or sound alone; silent ones are rejects."""

import json

import polars as pl
import pytest

from longrl.config import (
    CaptionSettings,
    CurateSettings,
    EvaluateSettings,
    FrameSettings,
    IngestSettings,
    Mixture,
    ModelSettings,
    Phase,
    ReasonSettings,
    RlSettings,
    SegmentSettings,
    SftSettings,
)
from longrl.data.caption import caption
from longrl.data.curate import curate
from longrl.data.ingest import ingest
from longrl.data.reason import reason
from longrl.data.segment import segment
from longrl.evaluation.evaluate import evaluate
from longrl.models import families
from longrl.models.student import student
from longrl.training.rl import rl
from longrl.training.sft import sft
from longrl.video.stories import make_story, write_film
from longrl.warehouse.artifacts import Warehouse

FILMS = {  # split and whether there is a sound track, by seed
    0: ("sft", True), 1: ("sft", True), 2: ("sft", False), 3: ("rl", True), 4: ("rl", False), 5: ("eval", True),
    6: ("eval", False),
}  # fmt: skip
MUTE = "{}.mp4 has no sound track; leave it out, or do without sound (caption.listen=false, frames.audio=false)"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Videos, captions, the dataset in the splits of `FILMS`, and the untrained model."""
    root = tmp_path_factory.mktemp("films")
    for seed, (_, sound) in FILMS.items():
        write_film(root / f"{seed}.mp4", make_story(seed, 3, sound=sound))
    warehouse = Warehouse(tmp_path_factory.mktemp("warehouse"))
    videos = ingest(IngestSettings(workers=1), root, warehouse)
    captions = caption(CaptionSettings(workers=1), videos, segment(SegmentSettings(), videos, warehouse), warehouse)
    questions = reason(ReasonSettings(), captions, warehouse, 0)
    curated = curate(CurateSettings(sft_share=1.0, eval_share=0.0), captions, questions, warehouse, 0)
    splits = {row["video_id"]: FILMS[int(row["path"][-5])][0] for row in videos.table().to_dicts()}
    rows = curated.table().with_columns(split=pl.col("video_id").replace_strict(splits))
    dataset = warehouse.produce("curate", 1, {"made": "split"}, {}, lambda draft: draft.write(rows))
    model = student(ModelSettings(family="qwen2_5_omni", layers=2), captions, dataset, warehouse, 0)
    return warehouse, videos, captions, dataset, model


@pytest.mark.slow  # two trainings and two engines, a minute or two
@pytest.mark.parametrize("audio", ["beside", "alone"])
def test_silent_videos_are_rejected_and_the_rest_is_learned_from(corpus, audio, tmp_path):
    warehouse, videos, captions, dataset, model = corpus
    frames = FrameSettings(budget=4, budgets=(4,), audio=audio)
    mixture = Mixture(clip_captions=2, video_captions=1, questions=2)
    settings = SftSettings(phases=(Phase(name="all", steps=2, mixture=mixture),), ranks=1)
    tuned = sft(settings, frames, model, dataset, captions, videos, warehouse, 0)
    assert rejected(tuned) == [MUTE.format(2)]
    changed = {name.split(".")[0] for name in differing(model, tuned)}
    assert changed >= {"model", "audio_tower"}
    assert ("visual" in changed) == (audio == "beside")

    own = tmp_path / "own.py"
    own.write_text("def variety(response):\n    return len(set(response.text)) / 10\n")
    learning = RlSettings(
        steps=2, prompts_per_step=3, group_size=4, temperature=1.2, max_tokens=12, warmup=0, learning_rate=1e-3,
        ranks=1, truncated="keep", rewards={f"{own}:variety": 1.0},
    )  # fmt: skip
    reinforced = rl(learning, frames, tuned, dataset, videos, warehouse, 0)
    assert rejected(reinforced) == [MUTE.format(4)]
    gaps = [step["parity_gap"] for step in steps(reinforced) if step["parity_gap"] is not None]
    assert gaps
    assert max(gaps) < 1e-3
    assert differing(tuned, reinforced)

    asked = evaluate(EvaluateSettings(samples=0, max_tokens=12, ranks=1), frames, {"rl": reinforced}, dataset, videos,
                     warehouse, 0)  # fmt: skip
    own_video = asked.table().filter(pl.col("mode") == "greedy")
    table = own_video.join(videos.table().select("video_id", "path"), on="video_id")
    heard = pl.col("path").str.ends_with("5.mp4")
    assert table.filter(heard).height
    assert table.filter(heard)["error"].null_count() == table.filter(heard).height
    assert set(table.filter(~heard)["error"]) == {MUTE.format(6)}


def rejected(stage):
    """Why videos are."""
    return [row["reason"] for row in stage.rejected().to_dicts()]


def steps(stage):
    return [json.loads(line) for line in stage.file("metrics.jsonl").read_text().splitlines()]


def differing(one, other):
    """Names of the weights in which two models differ."""
    before, after = (families.load(each.file("hf")).model.state_dict() for each in (one, other))
    return [name for name in before if not before[name].equal(after[name])]
