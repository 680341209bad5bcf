"""LoRA on every family: the language model's layers alone, saved in the family's own layout, merged or apart."""

import pytest
import torch

from longrl.models import adapter, families
from longrl.models.lora import merged, save_adapter
from longrl.mrsp import prefix
from longrl.training.checkpoint import write_model
from tests.adapters import with_adapter
from tests.families import build


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name != "llava_llama"])  # that is VILA too
def test_an_adapter_is_trained_saved_and_merged(family, tmp_path):
    folder = build(tmp_path / "base", family)
    student = with_adapter(families.load(folder))
    inside = {id(p) for p in student.language_model.parameters()}
    trained = {name: p for name, p in student.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * student.text_config.num_hidden_layers
    assert all(id(parameter) in inside for parameter in trained.values())

    prompt = student.chat.prompt("what moves")
    responses = [student.chat.response(text) for text in ("red", "left and then right")]
    rows = torch.cat(prefix.group_logprobs(student, prompt, (), responses))
    rows.sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in trained.values())

    write_model(student, folder, tmp_path / "hf")
    save_adapter(student.model, folder, tmp_path / "adapter")
    adapter.merge(tmp_path / "adapter", tmp_path / "merged")
    ours = merged(student.model)
    for name in ("hf", "merged"):
        whole = families.load(tmp_path / name)
        theirs = whole.model.state_dict()
        assert theirs.keys() == set(ours)
        assert all(theirs[each].equal(ours[each]) for each in theirs)
        again = torch.cat(prefix.group_logprobs(whole, prompt, (), responses))
        torch.testing.assert_close(again, rows, atol=1e-4, rtol=1e-4)
