"""Settings: recipes, overrides, and errors that name the field and the nearest valid one."""

import pytest
import yaml

from longrl.config import (
    ConfigError,
    PipelineConfig,
    field_names,
    generation_recipes,
    load_config,
    load_generation,
    recipes,
)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid(name):
    assert load_config(name).recipe == name


def test_an_override_reads_its_value_as_yaml():
    config = load_config("tiny", {"rl.group_size": "16", "frames.budgets": "[4, 8]", "sft.freeze_vision": "true"})
    assert (config.rl.group_size, config.frames.budgets, config.sft.freeze_vision) == (16, (4, 8), True)


@pytest.mark.parametrize(
    ("field", "near"),
    [("rl.grup_size", "rl.group_size"), ("rll", "rl"), ("caption.server.modle", "caption.server.model")],
)
def test_an_unknown_key_names_the_nearest_valid_one(field, near):
    with pytest.raises(ConfigError, match=f"{field}: unknown setting; did you mean '{near}'"):
        load_config("tiny", {field: "1"})


def test_a_value_out_of_range_names_the_field_and_the_bound():
    with pytest.raises(ConfigError, match=r"rl.group_size: .*greater than or equal to 2.*got 1"):
        load_config("tiny", {"rl.group_size": "1"})


@pytest.mark.parametrize(("offload", "stage", "needed"), [("optimizer", 0, 1), ("all", 2, 3)])
def test_what_cannot_be_offloaded_is_refused(offload, stage, needed):
    with pytest.raises(ConfigError, match=f"rl.offload: .*offload '{offload}' needs zero_stage {needed} or higher"):
        load_config("tiny", {"rl.zero_stage": str(stage), "rl.offload": offload})


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ConfigError, match="tiny"):
        load_config("huge")


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        PipelineConfig().seed = 3  # type: ignore[misc]


def test_the_resolved_configuration_is_read_back_equal():
    config = load_config("tiny", {"seed": "7"})
    assert PipelineConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_every_section_s_field_is_listed():
    assert {"rl", "rl.group_size", "caption.server.base_url"} <= set(field_names(PipelineConfig))


def test_an_entry_of_a_list_is_set_by_its_name():
    phases = load_config("tiny", {"sft.phases.reason.steps": "7"}).sft.phases
    untouched = load_config("tiny").sft.phases
    assert [phase.name for phase in phases if phase.steps == 7] == ["reason"]
    assert phases[:2] == untouched[:2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sft.phases.dream.steps", "there is no 'dream', only see, retell, reason"),
        ("sft.phases.steps", "phases is a list; name one of its entries"),
        ("sft.ranks.steps", "ranks is a single value"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_there_is(name, message):
    with pytest.raises(ConfigError, match=f"{name}: {message}"):
        load_config("tiny", {name: "7"})


@pytest.mark.parametrize("name", generation_recipes())
def test_every_recipe_of_a_generator_is_valid(name):
    assert load_generation(name, {"rl.steps": "7"}).rl.steps == 7


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rl.stepz": 1}, "rl.stepz: unknown setting; did you mean 'rl.steps'"),
        ({"rl.sampling.window": 99}, "a window of 99 does not fit"),
        ({"generator.family": "sdxl"}, "generator.family: Input should be 'sd3', 'wan' or 'flux'"),
    ],
)
def test_faults_of_a_generator_s_settings_are_told_by_field(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_generation("tiny-image", overrides)


def test_an_unknown_recipe_of_a_generator_names_those_there_are():
    with pytest.raises(ConfigError, match=r"generators' are: sd3\.5-medium, tiny-image"):
        load_generation("sdxl")
