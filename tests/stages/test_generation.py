"""The stages of a generator's run: prompts good and bad, encoded once, and RL that must end in words."""

import json
import shutil
from pathlib import Path

import pytest

from longrl.config import FlowMatchingSettings, GenerateRlSettings, PromptSettings
from longrl.diffusion.conditioning import conditioning
from longrl.diffusion.encoded import rows_of
from longrl.diffusion.flowmatch import flowmatch
from longrl.diffusion.generator import generator
from longrl.diffusion.prompts import PromptError, prompts
from longrl.training.rank import TrainingError
from longrl.warehouse.artifacts import Warehouse
from tests import generation
from tests.tiny_generator import SIZES


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    return generation.start(tmp_path_factory.mktemp("generator"))


def of_file(path, tmp_path, **settings):
    chosen = PromptSettings(path=str(path), **settings)
    return prompts(chosen, SIZES["sd3"], Warehouse(tmp_path / "warehouse"), 0)


def test_the_rendered_world_is_split_and_nothing_is_lost(tmp_path):
    made = prompts(PromptSettings(held_out=0.25), SIZES["wan"], Warehouse(tmp_path), 0)
    table = made.table()
    assert table.height == 2 * 6 * 3 * 2 * 4
    assert table["split"].value_counts().sort("split").rows() == [("eval", 72), ("train", 216)]


def test_every_line_of_a_file_ends_somewhere(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  \na dog\n" + "x" * 10_000 + "\na cat\na bird\n")
    made = of_file(file, tmp_path)
    assert sorted(made.table()["prompt"]) == ["a bird", "a cat", "a dog"]
    rejects = {(row["item"], row["rule"]): row["reason"] for row in made.rejected().iter_rows(named=True)}
    assert sorted(rejects) == [
        ("prompts.txt:2", "empty"),
        ("prompts.txt:3", "empty"),
        ("prompts.txt:5", "too_long"),
        ("prompts.txt:6", "repeated"),
    ]
    assert "10,000 characters, over prompts.longest (2,000)" in rejects["prompts.txt:5", "too_long"]


def test_json_lines_are_read_by_their_field(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a cat"}\n{"text": "a dog"}\nno json\n{"prompt": "a bird"}\n')
    made = of_file(file, tmp_path)
    assert sorted(made.table()["prompt"]) == ["a bird", "a cat"]
    assert made.rejects == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"0 usable prompts of 0"),
        ("\n\n", r"0 usable prompts of 2.*Rejected: 2 empty"),
        ("y" * 10_000, r"0 usable prompts of 1.*Rejected: 1 too_long"),
        ("a cat", r"1 usable prompts of 1; two are needed"),
    ],
)
def test_a_file_with_nothing_to_draw_is_told_with_the_reasons(tmp_path, content, words):
    file = tmp_path / "prompts.txt"
    file.write_text(content)
    with pytest.raises(PromptError, match=words):
        of_file(file, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PromptError, match=r"prompts\.path=.*nowhere can't be read"):
        of_file(tmp_path / "nowhere", tmp_path)


def test_the_tiny_generator_is_not_taught_prompts_of_another_world(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a small red circle on a grey ground\na photo of a cat\n")
    made = of_file(file, tmp_path)
    with pytest.raises(PromptError, match=r"'a photo of a cat' is not of it.*generator\.path"):
        flowmatch(FlowMatchingSettings(), SIZES["sd3"], made, made, made, Warehouse(tmp_path), 0)


def test_prompts_are_encoded_once_and_found_again_in_a_larger_set(beginning):
    sizes, warehouse = SIZES["sd3"], beginning.warehouse
    assert beginning.conditioning.facts() == {"cut": 0, "encoded": 13, "found": 0}
    more = prompts(PromptSettings(limit=15), sizes, warehouse, 0)
    again = conditioning(sizes, beginning.generator, more, warehouse)
    assert again.facts() == {"cut": 0, "encoded": 3, "found": 13}
    first = beginning.prompts.table()["prompt_id"][0]
    kept, same = (rows_of(Path(ref.path), [first]) for ref in (beginning.conditioning, again))
    assert all((kept[name] == same[name]).all() for name in kept)


def test_a_folder_is_taken_over_and_trained_without_its_text_encoders(beginning, tmp_path):
    """A pipeline whose encoders are deleted after encoding: training never looks for them."""
    folder = tmp_path / "pipeline"
    shutil.copytree(beginning.generator.file("pipeline"), folder)
    for part in folder.glob("text_encoder*"):
        shutil.rmtree(part)
    sizes = SIZES["sd3"].model_copy(update={"path": str(folder)})
    taken = generator(sizes, beginning.prompts, Warehouse(tmp_path / "warehouse"), 0)
    assert taken.facts()["family"] == "sd3"
    changes = {"generator": taken, "warehouse": Warehouse(tmp_path / "warehouse")}
    nan = tmp_path / "mine.py"
    nan.write_text(
        "import numpy as np\n"
        "def mine(pixels, prompts):\n"
        "    return [float('nan') if place == 0 else float(p.mean()) for place, p in enumerate(pixels)]\n"
    )
    made = type(beginning)(**vars(beginning) | changes).rl(steps=1, rewards={f"{nan}:mine": 1.0}, ranks=1)
    (row,) = generation.rows_of(made.file("metrics.jsonl"))
    assert row["not_finite_groups"] == 1  # the group of the one NaN
    assert row["gradient_norm"] > 0


@pytest.mark.slow
def test_rewards_that_are_no_numbers_end_in_words(beginning, tmp_path, caplog):
    mine = tmp_path / "mine.py"
    mine.write_text("def mine(pixels, prompts):\n    return [float('nan')] * len(prompts)\n")
    with pytest.raises(TrainingError, match="5 steps in a row had a loss or reward"):
        beginning.rl(steps=9, rewards={f"{mine}:mine": 1.0}, ranks=1)
    assert f"step 1: reward {mine}:mine is no finite number for some samples" in caplog.text


@pytest.mark.slow
def test_a_reward_of_the_wrong_length_ends_in_words(beginning, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def mine(pixels, prompts):\n    return [1.0]\n")
    with pytest.raises(TrainingError, match=r"mine.py:mine must return one number for each of the 16 samples"):
        beginning.rl(rewards={f"{mine}:mine": 1.0}, ranks=1)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_a_random_generator_learns_to_draw_brighter_or_with_the_sign_flipped_darker(beginning, sign):
    sampling = {"steps": 6, "window": 3, "window_to": 4, "shared_noise": True}
    changes = {"steps": 20, "group_size": 8, "lora_rank": 8, "lora_alpha": 16, "updates_per_batch": 2, "warmup": 3}
    made = beginning.rl(
        **changes, sampling=sampling, rewards={"brightness": sign}, learning_rate=6e-3, kl=0.02, clip=5e-3, ranks=1
    )
    rows = generation.rows_of(made.file("metrics.jsonl"))
    before, after = (sum(row["rewards"]["brightness"] for row in part) / 4 for part in (rows[:4], rows[-4:]))
    assert sign * (after - before) > 0.06
    assert rows[-1]["diversity"] > 0.6 * rows[0]["diversity"]


def test_more_ranks_than_prompts_are_refused():
    with pytest.raises(ValueError, match="fewer than the 3 ranks"):
        GenerateRlSettings(prompts_per_step=2, ranks=3)


def test_json_of_settings_is_what_a_rank_reads():
    settings = generation.RL
    assert GenerateRlSettings.model_validate(json.loads(settings.model_dump_json())) == settings
