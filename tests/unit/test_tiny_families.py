"""Tiny models of all families: built from settings, saved whole, and started mimetically whatever their layers."""

import pytest
import torch

from longrl.config import ModelSettings
from longrl.models import families
from longrl.models.families import FAMILIES, StudentError, check_folder
from longrl.models.tiny import build_tiny

TEXTS = ["<think>clip 1: red walks. so white (B)</think><answer>B</answer>", "Who acts first?\n- red (A)\n- blue (B)"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_a_whole_folder_whose_first_layer_looks_back(family, tmp_path):
    folder = build_tiny(tmp_path / "tiny", ModelSettings(family=family), TEXTS, seed=0)
    assert check_folder(folder) == folder
    student = families.load(folder)
    assert student.chat.decode(student.chat.response(TEXTS[0])) == TEXTS[0]
    model = type(student).MODEL.from_pretrained(folder, attn_implementation="eager")
    ids = torch.randint(10, 200, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model(input_ids=ids, output_attentions=True).attentions[0][0]  # [heads, queries, keys]
    for head, back in enumerate((1, 2, 3)):
        assert (first[head, 8:].argmax(-1) == torch.arange(8, 24) - back).float().mean() > 0.9


def test_a_family_that_there_is_not_is_named(tmp_path):
    with pytest.raises(StudentError, match=r"model\.family=gpt: there is no such family; there are qwen2_5_vl"):
        build_tiny(tmp_path / "tiny", ModelSettings(family="gpt"), TEXTS, seed=0)
