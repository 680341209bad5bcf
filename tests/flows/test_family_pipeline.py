"""The whole DAG with tiny students of families whose rollouts take prompts by id and by embedding."""

import json

import pytest

from tests.flows.test_pipeline import run, summary

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["vila", "llava_onevision"])
def test_a_run_goes_through_every_stage(family, tmp_path):
    warehouse = tmp_path / "warehouse"
    run(warehouse, **{"model.family": family, "model.heads": "4", "evaluate.engine": "vllm"})
    result = summary(warehouse)
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert {"pretrain", "sft", "rl", "evaluate"} <= stages.keys()
    lines = (warehouse / "reports/latest/summary.json").read_text()
    assert json.loads(lines) == result
