"""What the plan reckons with, against real models: their parameters, and what PyTorch keeps of a forward."""

import json
from dataclasses import replace

import pytest
import torch

from longrl.config import load_config
from longrl.models import families
from longrl.models.families import class_of
from longrl.models.shape import from_config, shape_of
from longrl.models.tiny import train_tokenizer
from longrl.mrsp import costs, prefix
from longrl.mrsp.attention import Layout
from longrl.mrsp.costs import Work, kept_activations
from tests.adapters import LORA, with_adapter
from tests.families import build
from tests.kept import kept_bytes


def test_parameters_are_those_of_a_real_folder(student_folder, loaded_student):
    shape = from_config(json.loads((student_folder / "config.json").read_text()))
    assert shape.parameters == sum(p.numel() for p in loaded_student.model.parameters())
    assert shape.tower_parameters == sum(p.numel() for p in loaded_student.model.model.visual.parameters())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen2", "qwen3"])
def test_a_tiny_shape_is_that_of_the_model_it_builds(family):
    settings = load_config("tiny", {"model.family": family}).model
    student = class_of(family)
    config = student.tiny_config(train_tokenizer(["red walks"], settings.vocabulary), settings)
    built = from_config(config.to_dict())
    assert replace(shape_of(settings), vocabulary=built.vocabulary) == built
    with torch.device("meta"):
        model = student.MODEL(config)
    assert built.parameters == sum(p.numel() for p in model.parameters())
    if built.tower:
        assert built.tower.parameters == sum(p.numel() for p in model.model.visual.parameters())
        mergers = (n for n in ("merger", "deepstack_merger_list") if hasattr(model.model.visual, n))
        projector = [p for n in mergers for p in getattr(model.model.visual, n).parameters()]
        assert built.tower.projector == sum(p.numel() for p in projector)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3", "qwen3 with LoRA"])
def made(request, tmp_path_factory):
    """A student of a family, and its shape."""
    family, _, lora = request.param.partition(" with ")
    folder = build(tmp_path_factory.mktemp("made"), family)
    student = families.load(folder)
    if lora:
        with_adapter(student)
    return student, from_config(json.loads((folder / "config.json").read_text())), LORA.rank if lora else 0


def test_activations_are_what_pytorch_keeps(made):
    """The storages that a real forward saves for its backward, the model's own weights left out."""
    student, shape, rank = made
    prompt = student.chat.prompt("x " * 100)
    P, G, R = len(prompt.expanded), 4, 16
    ids = torch.tensor([prompt.expanded + [7] * (G * R)])
    places = student.positions(prompt, extra=G * R)[:, None]
    outputs = []
    measured = kept_bytes(
        lambda: outputs.append(student.text_hidden(student.token_embeds(ids), places, Layout(P, G, R))),
        student.model.parameters(),
    )
    work = Work(P + 1, 0, R - 1, G, prompts=1, number_bytes=4, lora_rank=rank, lora_targets=LORA.target_modules)
    assert outputs[0].requires_grad
    assert measured == pytest.approx(kept_activations(shape, ids.shape[1], work), rel=0.05)


def test_packing_and_chunks_are_those_of_the_trainer():
    from longrl.training import rl_update

    assert (costs.FORWARD_TOKENS, costs.CHUNK) == (rl_update.TOKENS_PER_FORWARD, prefix.CHUNK)
