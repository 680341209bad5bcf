"""LoRA's updates against the matrices they stand for: values, gradients, folders, counts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from longrl.config import ConfigError, LoraSettings, load_config
from longrl.models import adapter, families
from longrl.models.lora import LoraError, adapted, add_lora, merged, plain, save_adapter, without_adapter
from longrl.models.shape import from_config
from longrl.mrsp import prefix
from longrl.mrsp.activations import limit_activations
from longrl.mrsp.costs import Work
from longrl.training.checkpoint import write_model
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.adapters import LORA, with_adapter
from tests.separate_sequences import video

WORDS = ["<think>red</think><answer>A</answer>", "blue", "the ball moves left and then right"]


@pytest.fixture
def student(student_folder):
    return families.load(student_folder)


@pytest.fixture(scope="module")
def folders(student_folder, tmp_path_factory) -> dict[str, Path]:
    """One student's merged folder and adapter."""
    trained, folder = with_adapter(families.load(student_folder)), tmp_path_factory.mktemp("trained")
    write_model(trained, student_folder, folder / "hf")
    save_adapter(trained.model, student_folder, folder / "adapter")
    return {"hf": folder / "hf", "adapter": folder / "adapter"}


def scores(student) -> torch.Tensor:
    """Logprobs of a group of responses to a video's prompt."""
    prompt = student.chat.prompt("what moves", [student.chat.video((8, 4, 4), 1.7)])
    responses = [student.chat.response(text) for text in WORDS]
    return torch.cat(prefix.group_logprobs(student, prompt, video(student, prompt), responses))


def loss(student) -> torch.Tensor:
    rows = scores(student)
    return (rows * torch.linspace(-1, 1, len(rows))).sum()


def test_training_begins_at_the_student_itself(student):
    before = scores(student)
    add_lora(student, LORA)
    assert scores(student).equal(before)


def test_only_the_adapters_are_trained(student):
    student.freeze("tower", "projector")
    add_lora(student, LORA)
    trained = [name for name, parameter in student.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * len(student.language_model.layers)
    assert all(name.startswith("model.language_model.layers.") and ".lora_" in name for name in trained)


def test_tower_and_projector_may_be_trained_beside_them(student):
    student.freeze("tower")
    add_lora(student, LORA)
    trained = {name for name, parameter in student.model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if ".visual." in name} == {
        name for name, _ in student.model.named_parameters() if ".visual.merger." in name
    }


def test_a_name_that_is_no_layer_is_told_with_those_that_are(student):
    with pytest.raises(LoraError, match=r"no linear layer called qkv; there are down_proj, gate_proj, k_proj, o_proj"):
        add_lora(student, LoraSettings(rank=2, target_modules=("q_proj", "qkv")))


def test_merged_weights_compute_the_same(student, folders):
    ours = scores(with_adapter(student))
    theirs = scores(families.load(folders["hf"]))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    assert (scores(families.load(Path(student.model.config._name_or_path))) - ours).abs().max() > 0.1


def test_merging_leaves_the_trainer_as_it_was(student, student_folder):
    with_adapter(student)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    weights = merged(student.model)
    assert set(weights) == set(families.load(student_folder).model.state_dict())
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    layer = adapted(student.model)[name.removesuffix(".weight")]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(weights[name], layer.base_layer.weight + 8 / 4 * b @ a)
    with plain(student.model):
        assert not adapted(student.model)
        assert set(student.model.state_dict()) == set(weights)
        torch.testing.assert_close(student.model.state_dict()[name], weights[name])
    after = student.model.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].equal(before[name]) for name in before)


def test_without_its_adapter_it_is_the_student_that_training_began_with(student, student_folder):
    with_adapter(student)
    frozen = families.load(student_folder)
    gradients = {name: parameter.requires_grad for name, parameter in student.model.named_parameters()}
    with without_adapter(student.model):
        assert scores(student).equal(scores(frozen))
        assert {name: parameter.requires_grad for name, parameter in student.model.named_parameters()} == gradients
    assert not scores(student).equal(scores(frozen))


@pytest.mark.parametrize(
    ("checkpointing", "tiles"), [("none", 1), ("recompute", 1), ("offload", 2)], ids=["plain", "recompute", "tiled"]
)
def test_gradients_are_those_of_the_merged_matrices(student, folders, checkpointing, tiles):
    """dL/dB = s G Aᵀ and dL/dA = s Bᵀ G, with G the gradient of the merged matrix."""
    with_adapter(student)
    limit_activations(student, checkpointing, tiles)
    loss(student).backward()
    whole = families.load(folders["hf"])
    loss(whole).backward()
    full = dict(whole.model.named_parameters())
    for name, layer in adapted(student.model).items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        of_merged = full[f"{name}.weight"].grad
        for ours, theirs in ((b.grad, 2 * of_merged @ a.T), (a.grad, 2 * b.T @ of_merged)):
            assert (ours - theirs).norm() < 2e-4 * theirs.norm(), name
    assert all(p.grad is None for n, p in student.model.named_parameters() if ".lora_" not in n)


def test_the_first_layer_learns_behind_a_frozen_attention_in_tiles_too(student):
    with_adapter(student, LoraSettings(rank=4, target_modules=("up_proj",)))
    limit_activations(student, "none", 2)
    loss(student).backward()
    assert all(p.grad.norm() > 0 for n, p in student.model.named_parameters() if ".lora_" in n)


def test_peft_s_own_loader_reads_the_adapter(student_folder, folders):
    base = AutoModelForImageTextToText.from_pretrained(student_folder)
    theirs = PeftModel.from_pretrained(base, folders["adapter"]).merge_and_unload().state_dict()
    ours = families.load(folders["hf"]).model.state_dict()
    assert theirs.keys() == ours.keys()
    assert max((theirs[name] - ours[name]).abs().max() for name in ours) < 1e-6


def artifact(folder: Path) -> ArtifactRef:
    return ArtifactRef("sft", "k", str(folder), "d1", 1)


def test_an_adapter_alone_is_merged_for_later_stages_once(folders, tmp_path):
    warehouse = Warehouse(tmp_path / "warehouse")
    shutil.copytree(folders["adapter"], tmp_path / "alone" / "adapter")
    folder = adapter.model_folder(artifact(tmp_path / "alone"), warehouse)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in folders["hf"].iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (folders["hf"] / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "alone" / "adapter" / "adapter_model.safetensors", ignore_errors=True)
    assert adapter.model_folder(artifact(tmp_path / "alone"), warehouse) == folder
    assert adapter.model_folder(artifact(folders["hf"].parent), warehouse) == folders["hf"]


def test_an_adapter_whose_base_is_gone_or_another_says_so(folders, tmp_path):
    from tests.tiny_student import build_student

    lost = tmp_path / "alone" / "adapter"
    shutil.copytree(folders["adapter"], lost)
    told = json.loads((lost / "adapter_config.json").read_text())
    for base in (str(tmp_path / "gone"), str(build_student(tmp_path / "wider", hidden=64))):
        (lost / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": base}))
        gone = base.endswith("gone")
        with pytest.raises(adapter.AdapterError if gone else LoraError, match="which is gone" if gone else "another"):
            adapter.model_folder(artifact(tmp_path / "alone"), Warehouse(tmp_path / "warehouse"))
    assert not list((tmp_path / "warehouse" / "cache" / "merged").iterdir())


def test_the_plan_counts_what_is_trained(student, student_folder):
    with_adapter(student)
    shape = from_config(json.loads((student_folder / "config.json").read_text()))
    work = Work(prompt=9, video=0, response=1, group=1, prompts=1)
    lora = replace(work, lora_rank=LORA.rank, lora_targets=LORA.target_modules)
    trained = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    assert lora.trained(shape) == sum(map(torch.Tensor.numel, trained))
    assert work.trained(shape) == shape.text_parameters
    # Gradients and AdamW's state as they are after an update.
    optimizer = torch.optim.AdamW(trained)
    loss(student).backward()
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values() if value.numel() > 1]
    from longrl.mrsp.costs import memory

    reckoned = memory(shape, replace(lora, number_bytes=4))
    assert reckoned["gradients"] == sum(parameter.grad.nbytes for parameter in trained)
    assert reckoned["optimizer"] == sum(value.nbytes for value in held)
    assert reckoned["weights"] == sum(parameter.nbytes for parameter in student.model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sft.lora.rank": 8},
            r"tower or projector are trained too; set freeze_vision=true, or lora",
        ),
        ({"rl.lora.rank": 8, "rl.lora.dropout": 0.1}, "RL compares probabilities, which it would blur; set 0"),
        ({"sft.freeze_vision": True, "sft.freeze_language": True}, "all frozen; nothing would be trained"),
        ({"sft.freeze_language": True}, r"phase see has reading; take them out of its mixture"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", settings)


def test_what_is_frozen_is_chosen_part_by_part():
    def frozen(**settings):
        return load_config("qwen2.5-vl-3b", {f"sft.{name}": value for name, value in settings.items()}).sft.frozen

    assert frozen() == {"tower", "projector"}  # the recipe's freeze_vision
    assert frozen(freeze_projector=False) == {"tower"}
    assert frozen(freeze_vision=False, freeze_projector=True) == {"projector"}
    assert frozen(freeze_projector=False, freeze_language=True) == {"tower", "language"}


def test_settings_that_came_later_leave_old_keys_as_they_were():
    sft, rl = load_config("tiny").sft.identity(), load_config("tiny").rl.identity()
    assert not {"lora", "freeze_projector", "freeze_language"} & (sft.keys() | rl.keys())
    assert load_config("tiny", {"rl.lora.alpha": 7}).rl.identity() == rl  # without a rank it decides nothing
    assert load_config("tiny", {"rl.lora.rank": 7}).rl.identity()["lora"]["rank"] == 7
