"""Qwen2.5-Omni in a real vLLM engine: sound, video with its sound, images and text, with the trainer's positions."""

import shutil

import pytest
import torch

from longrl.models import families
from longrl.rollout.request import Request
from longrl.rollout.vllm import Engine
from tests.families import build
from tests.rollouts import agreement
from tests.unit.test_omni import SHOWN, ours

TOLERANCE = 1e-3  # nats, float32; the gate's is 0.05


@pytest.mark.slow  # an engine, 20 s
def test_the_engine_agrees_with_the_trainer_about_what_is_heard(tmp_path):
    student = families.load(build(tmp_path / "start", "qwen2_5_omni"))
    folder = shutil.copytree(tmp_path / "start", tmp_path / "trained", ignore=shutil.ignore_patterns("*.safetensors"))
    student.save(folder)
    requests = [Request(*ours(student, "what beeps", *shown), 4, 1.0, 24, 7) for shown in SHOWN.values()]
    with Engine(folder, max_model_len=512) as engine:
        gap = agreement(student, requests, engine.generate(requests))
        assert gap.tokens > 100
        assert gap.largest < TOLERANCE, gap
        alone = [engine.generate([request])[0] for request in requests]
        assert agreement(student, requests, alone).largest < TOLERANCE
        with torch.no_grad():
            for parameter in student.language_model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        engine.update_weights(student.model.state_dict())
        again = agreement(student, requests, engine.generate(requests))
        assert again.largest < TOLERANCE, again
