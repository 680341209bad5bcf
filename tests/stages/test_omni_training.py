"""Qwen2.5-Omni through SFT on videos with their sound: a silent one is a reject, the others are learned from."""

import json

import pytest

from longrl.config import (
    CaptionSettings,
    CurateSettings,
    FrameSettings,
    IngestSettings,
    Mixture,
    ModelSettings,
    Phase,
    ReasonSettings,
    SegmentSettings,
    SftSettings,
)
from longrl.data.caption import caption
from longrl.data.curate import curate
from longrl.data.ingest import ingest
from longrl.data.reason import reason
from longrl.data.segment import segment
from longrl.models import families
from longrl.models.student import student
from longrl.training.sft import sft
from longrl.video.stories import make_story, write_film
from longrl.warehouse.artifacts import Warehouse


@pytest.mark.slow  # a training process, 30 s
@pytest.mark.parametrize("audio", ["beside", "alone"])
def test_a_silent_video_is_rejected_and_the_rest_is_learned_from(tmp_path, audio):
    (tmp_path / "films").mkdir()
    for seed in range(4):
        write_film(tmp_path / "films" / f"{seed}.mp4", make_story(seed, 3, sound=seed != 2))
    warehouse = Warehouse(tmp_path / "warehouse")
    videos = ingest(IngestSettings(workers=1), tmp_path / "films", warehouse)
    captions = caption(CaptionSettings(workers=1), videos, segment(SegmentSettings(), videos, warehouse), warehouse)
    questions = reason(ReasonSettings(), captions, warehouse, 0)
    dataset = curate(CurateSettings(sft_share=1.0, eval_share=0.0), captions, questions, warehouse, 0)
    model = student(ModelSettings(family="qwen2_5_omni", layers=2), captions, dataset, warehouse, 0)
    mixture = Mixture(clip_captions=2, video_captions=1, questions=2)
    settings = SftSettings(phases=(Phase(name="all", steps=2, mixture=mixture),), ranks=1)
    frames = FrameSettings(budget=4, budgets=(4,), audio=audio)
    trained = sft(settings, frames, model, dataset, captions, videos, warehouse, 0)
    rejected = trained.rejected().to_dicts()
    assert [row["rule"] for row in rejected] == ["decode"]
    assert "2.mp4 has no sound track; leave it out, or do without sound" in rejected[0]["reason"]
    steps = [json.loads(line) for line in trained.file("metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    before, after = (families.load(each.file("hf")).model.state_dict() for each in (model, trained))
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed >= {"model", "audio_tower"}
    assert ("visual" in changed) == (audio == "beside")
