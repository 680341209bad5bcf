"""What the plan reckons with, against real models: their parameters, and what PyTorch keeps of a forward."""

import json
from dataclasses import replace

import pytest
import torch

from longrl.config import load_config
from longrl.models.qwen2_5_vl import Qwen2_5_VL
from longrl.models.shape import from_config, shape_of
from longrl.models.tiny import train_tokenizer
from longrl.mrsp import costs, prefix
from longrl.mrsp.attention import Layout
from longrl.mrsp.costs import layer_bytes


def test_parameters_are_those_of_a_real_folder(student_folder, loaded_student):
    shape = from_config(json.loads((student_folder / "config.json").read_text()))
    assert shape.parameters == sum(p.numel() for p in loaded_student.model.parameters())
    assert shape.tower_parameters == sum(p.numel() for p in loaded_student.model.model.visual.parameters())


def test_the_tiny_recipe_s_shape_is_that_of_the_model_it_builds():
    settings = load_config("tiny").model
    config = Qwen2_5_VL.tiny_config(train_tokenizer(["red walks"], settings.vocabulary), settings)
    built = from_config(config.to_dict())
    assert replace(shape_of(settings), vocabulary=built.vocabulary) == built


def test_activations_are_what_pytorch_keeps(loaded_student, student_folder):
    """The storages that a real forward saves for its backward, the model's own weights left out."""
    shape = from_config(json.loads((student_folder / "config.json").read_text()))
    prompt = loaded_student.chat.prompt("x " * 100)
    P, G, R = len(prompt.expanded), 4, 16
    ids = torch.tensor([prompt.expanded + [7] * (G * R)])
    places = loaded_student.positions(prompt, extra=G * R)[:, None]
    weights = {p.untyped_storage().data_ptr() for p in loaded_student.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = loaded_student.text_hidden(loaded_student.token_embeds(ids), places, Layout(P, G, R))
    measured = sum(size for place, size in kept.items() if place not in weights)
    expected = ids.shape[1] * (shape.layers * layer_bytes(shape, 4) + 2 * shape.hidden * 4 + 4)
    assert hidden.requires_grad
    assert measured == pytest.approx(expected, rel=0.05)


def test_packing_and_chunks_are_those_of_the_trainer():
    from longrl.training import rl_update

    assert (costs.FORWARD_TOKENS, costs.CHUNK) == (rl_update.TOKENS_PER_FORWARD, prefix.CHUNK)
