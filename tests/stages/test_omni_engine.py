"""Qwen2.5-Omni in a real vLLM engine: sound, video with its sound, images and text, with the trainer's positions."""

import json
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


@pytest.mark.slow  # imports vLLM
def test_a_server_gets_what_the_engine_in_process_gets(tmp_path):
    from vllm.entrypoints.scale_out.token_in_token_out.mm_features import mm_kwargs_from_features
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import MultiModalFeatures

    student = families.load(build(tmp_path, "qwen2_5_omni"))
    for shown in SHOWN.values():
        prompt, embeds = ours(student, "what beeps", *shown)
        sent = MultiModalFeatures(**json.loads(json.dumps(student.vllm_features(prompt, embeds))))
        received, given = mm_kwargs_from_features(sent), student.vllm_input(prompt, embeds)
        assert sent.mm_hashes == given["mm_hashes"]
        for kind, items in given["mm_kwargs"].items():
            places = [(place.offset, place.length) for place in sent.mm_placeholders[kind]]
            assert places == [(place.offset, place.length) for place in given["mm_placeholders"][kind]]
            for item, other in zip(items, received[kind], strict=True):
                assert item.keys() == other.keys()
                assert all(torch.equal(item[name].data, other[name].data) for name in item)
