"""Every family in a real vLLM engine, started from a folder the trainer wrote: text, images, videos, new weights."""

import shutil

import pytest
import torch

from longrl.models import families
from longrl.models.families import FAMILIES
from longrl.rollout.request import Request
from longrl.rollout.vllm import Engine
from tests.families import build, look, noise
from tests.rollouts import agreement

SHOWN = {
    "text": [],
    "image": [("image", noise(1), 1.0)],
    "images": [("image", noise(1, seed=1), 1.0), ("image", noise(1, 28, 84, seed=2), 1.0)],
    "video": [("video", noise(8), 1.7)],
    "videos": [("video", noise(4, seed=3), 0.5), ("image", noise(1), 1.0), ("video", noise(6, 28, 84, seed=4), 3.0)],
}
TOLERANCE = 1e-3  # nats, float32; the gate's is 0.05


@pytest.mark.slow  # an engine each, 20 s
@pytest.mark.parametrize("family", [name for name, entry in FAMILIES.items() if entry.vllm])
def test_the_engine_agrees_with_the_trainer(family, tmp_path):
    student = families.load(build(tmp_path / "start", family))
    with torch.no_grad():
        for parameter in student.language_model.parameters():
            parameter.mul_(1.05)
    folder = shutil.copytree(tmp_path / "start", tmp_path / "trained", ignore=shutil.ignore_patterns("*.safetensors"))
    student.save(folder)
    requests = []
    for shown in SHOWN.values():
        if {kind for kind, _, _ in shown} <= set(student.KINDS):
            media, embeds = look(student, shown)
            requests.append(Request(student.chat.prompt("what moves", media), embeds, 4, 1.0, 24, 7))
    with Engine(folder, max_model_len=512) as engine:
        gap = agreement(student, requests, engine.generate(requests))
        assert gap.tokens > 100
        assert gap.largest < TOLERANCE, gap
        with torch.no_grad():
            for parameter in student.language_model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        engine.update_weights(student.model.state_dict())
        again = agreement(student, requests, engine.generate(requests))
        assert again.largest < TOLERANCE, again
