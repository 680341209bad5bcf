"""Every family in a real vLLM engine, started from a folder the trainer wrote: text, images, videos, new weights."""

import shutil

import pytest
import torch

from longrl.models import families
from longrl.rollout.request import Request
from longrl.rollout.server import Servers
from longrl.rollout.vllm import Engine
from tests.families import ANY_SIZE, SHOWN, build, look
from tests.rollouts import agreement
from tests.served import served

TOLERANCE = 1e-3  # nats, float32; the gate's is 0.05


def everything(student):
    """A request for everything the family can be shown."""
    requests = []
    for shown in SHOWN.values():
        if {kind for kind, _, _ in shown} <= set(student.KINDS):
            media, embeds = look(student, shown)
            requests.append(Request(student.chat.prompt("what moves", media), embeds, 4, 1.0, 24, 7))
    return requests


@pytest.mark.slow  # an engine each, 20 s
@pytest.mark.parametrize("family", [name for name, entry in ANY_SIZE.items() if entry.vllm])
def test_the_engine_agrees_with_the_trainer(family, tmp_path):
    student = families.load(build(tmp_path / "start", family))
    with torch.no_grad():
        for parameter in student.language_model.parameters():
            parameter.mul_(1.05)
    folder = shutil.copytree(tmp_path / "start", tmp_path / "trained", ignore=shutil.ignore_patterns("*.safetensors"))
    student.save(folder)
    requests = everything(student)
    with Engine(folder, max_model_len=512) as engine:
        gap = agreement(student, requests, engine.generate(requests))
        assert gap.tokens > 50
        assert gap.largest < TOLERANCE, gap
        with torch.no_grad():
            for parameter in student.language_model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        engine.update_weights(student.model.state_dict())
        again = agreement(student, requests, engine.generate(requests))
        assert again.largest < TOLERANCE, again


@pytest.mark.slow  # a server, 40 s; video slots with gaps go a way of their own
def test_a_server_agrees_with_the_trainer_about_timed_videos(tmp_path):
    student = families.load(build(tmp_path / "model", "qwen3_vl"))
    requests = everything(student)
    with served(tmp_path / "model", tmp_path / "server.log") as (_, url):
        servers = Servers([url], [url], student, tmp_path)
        gap = agreement(student, requests, servers.generate(requests))
        servers.update_weights(student.model.state_dict())
        again = agreement(student, requests, servers.generate(requests))
    assert gap.tokens > 50
    assert max(gap.largest, again.largest) < TOLERANCE, gap
