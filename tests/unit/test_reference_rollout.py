"""Rollouts by transformers: the engine of families that vLLM lacks."""

import logging
from dataclasses import replace

import pytest

from longrl.config import RlSettings, RolloutSettings
from longrl.models import families
from longrl.models.families import FAMILIES
from longrl.rollout.reference import Reference, engine_for
from longrl.rollout.sampler import make_sampler
from tests.rollouts import agreement, mixed, new_weights_are_used_and_old_prefixes_forgotten


@pytest.fixture(scope="module")
def reference(student_folder):
    return Reference(families.load(student_folder))


def test_its_logprobs_are_the_trainer_s(reference, loaded_student):
    requests = mixed(loaded_student, temperature=0.8)
    gap = agreement(loaded_student, requests, reference.generate(requests), 0.8)
    assert gap.tokens > 50
    assert gap.largest < 1e-4


def test_new_weights_are_used_at_once(reference, loaded_student):
    new_weights_are_used_and_old_prefixes_forgotten(reference, loaded_student)


def test_a_family_that_vllm_lacks_is_rolled_out_with_a_warning(student_folder, loaded_student, monkeypatch, caplog):
    settings = RlSettings(rollout=RolloutSettings(engine="vllm"))
    assert engine_for(student_folder, "vllm") == "vllm"
    assert engine_for(student_folder, "transformers") == "transformers"
    assert not caplog.records
    monkeypatch.setitem(FAMILIES, "qwen2_5_vl", replace(FAMILIES["qwen2_5_vl"], vllm=False))
    with caplog.at_level(logging.WARNING):
        sampler = make_sampler(settings, str(student_folder), 512, 0, loaded_student, None)
    assert isinstance(sampler.engine, Reference)
    [record] = caplog.records
    assert "vLLM has no implementation of Qwen2.5-VL" in record.getMessage()
    assert "many times as long" in record.getMessage()
