"""What a model folder must hold, and what is said of one that lacks something."""

import json
import shutil
from pathlib import Path

import pytest

from longrl.models.families import FAMILIES, StudentError, check_folder, family_class, load
from longrl.models.prompt import Medium, Prompt, Slot


@pytest.fixture
def folder(student_folder, tmp_path):
    """A copy of a whole model."""
    return Path(shutil.copytree(student_folder, tmp_path / "model"))


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_folder_passes(folder):
    assert check_folder(folder) == folder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_file_and_agrees_with_its_entry(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    student = family_class(tmp_path)
    assert set(student.KINDS) == set(FAMILIES[name].kinds)


def test_an_unknown_family_is_named_with_the_known_ones(folder):
    rewrite(folder / "config.json", model_type="gpt2")
    for check in (check_folder, load):
        with pytest.raises(StudentError, match=r"is a 'gpt2' model; longrl trains qwen2_5_vl.*docs/models\.md"):
            check(folder)


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"a": "model-00001-of-00003.safetensors", "b": "model-00002-of-00003.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StudentError, match=r"lacks 1 of the 2 files.*model-00002-of-00003\.safetensors.*again"):
        check_folder(folder)


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudentError, match=r"MODEL=.* has no \*\.safetensors"):
        check_folder(folder, "MODEL")


def test_another_model_s_processor_is_named(folder):
    rewrite(folder / "processor_config.json", processor_class="LlavaProcessor")
    with pytest.raises(StudentError, match=r"is of a LlavaProcessor, a Qwen2\.5-VL needs Qwen2_5_VLProcessor; copy"):
        check_folder(folder)


def test_patches_of_another_size_are_named(folder):
    path = folder / "processor_config.json"
    rewrite(path, video_processor=json.loads(path.read_text())["video_processor"] | {"patch_size": 16})
    with pytest.raises(StudentError, match=r"says patch_size 16, config\.json says patch_size 14"):
        check_folder(folder)


def test_a_tokenizer_of_another_family_is_named(folder):
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens = json.dumps(tokens).replace("<|video_pad|>", "<|clip_pad|>")
    (folder / "tokenizer.json").write_text(tokens)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config).replace("<|video_pad|>", "<|clip_pad|>"))
    with pytest.raises(Exception, match=r"the tokenizer has no <\|video_pad\|>"):
        load(folder)


def test_a_prompt_of_text_and_several_media():
    film, picture = Medium("video", 4, (4, 2, 2), 2.0), Medium("image", 1, (1, 2, 2))
    timed = Slot((film,), (90,), (90,), (7, 90, 90, 8, 90, 90))
    prompt = Prompt(((1, 2), timed, (3,), Slot((picture,), (91,), (91,), (91,))), (4, 5))
    assert prompt.compact == [1, 2, 90, 3, 91, 4, 5]
    assert prompt.expanded == [1, 2, 7, 90, 90, 8, 90, 90, 3, 91, 4, 5]
    assert (len(prompt), prompt.media_tokens, prompt.starts()) == (12, 5, [2, 9])
    assert prompt.by_pad(["film", "picture"]) == {90: ["film"], 91: ["picture"]}
