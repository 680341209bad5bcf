"""What the forms of the Prefect UI are filled in with before a person changes anything."""

from __future__ import annotations

import shlex
from typing import Any

from flows.arguments import config_of, parser
from flows.stage import form
from flows.stages import ORDER
from longrl.config import load_generation


def fill(arguments: str = "") -> dict[str, Any]:
    """Build step of prefect.yaml: the settings that a command line means, such as `--recipe tiny --set rl.steps=80`.

    Under `config` stands the whole configuration, under each stage's name what the form of `stage/<name>` shows of it,
    under `generation` the tiny generators' recipe, in the same warehouse.
    Raises `ConfigError` for what is unknown or out of range.
    """
    options = parser("Settings that a form starts with.").parse_args(shlex.split(arguments))
    config = config_of(options).model_dump(mode="json")
    generation = load_generation(overrides={"warehouse": config["warehouse"]})
    stages = {stage: {name: config[name] for name in form(stage).model_fields} for stage in ORDER}
    return {"config": config, "generation": generation.model_dump(mode="json"), **stages}
