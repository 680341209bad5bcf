"""The whole DAG with tiny students whose prompts are more than pads and text: media by embedding, or with sound."""

import json

import pytest

from tests.flows.test_pipeline import run, summary

pytestmark = pytest.mark.slow
SETTINGS = {
    "vila": {"model.heads": "4"},
    "llava_onevision": {"model.heads": "4"},
    "qwen2_5_omni": {"stories.sound": "true", "caption.listen": "true", "frames.audio": "beside"},
}


@pytest.mark.parametrize("family", SETTINGS)
def test_a_run_goes_through_every_stage(family, tmp_path):
    warehouse = tmp_path / "warehouse"
    run(warehouse, **SETTINGS[family], **{"model.family": family})
    result = summary(warehouse)
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert {"pretrain", "sft", "rl", "evaluate"} <= stages.keys()
    lines = (warehouse / "reports/latest/summary.json").read_text()
    assert json.loads(lines) == result
