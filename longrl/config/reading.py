"""From a recipe's file and overrides to settings: dotted names, and errors that speak as a person writes."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from longrl.config.base import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def read_recipe(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """The nested values of a recipe with overrides by dotted name; strings are read as YAML, so `"16"` is 16."""
    values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    values["recipe"] = path.stem
    for name, value in overrides.items():
        set_dotted(values, name, yaml.safe_load(value) if isinstance(value, str) else value)
    return values


def validated(model: type[Model], values: dict[str, Any]) -> Model:
    """Validate a nested dictionary of settings; raises `ConfigError` with a line for each fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(item, model) for item in error.errors())) from None


def set_dotted(values: dict[str, Any], name: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries; an entry of a list goes by its name, as in `sft.phases.reason.steps`.

    Raises `ConfigError` when `a.b` is a plain value or a list without such an entry.
    """
    *parents, last = name.split(".")
    within: Any = values
    for parent in parents:
        if isinstance(within, list):
            entries = {entry.get("name"): entry for entry in within if isinstance(entry, dict)}
            if parent not in entries:
                raise ConfigError(f"{name}: there is no {parent!r}, only {', '.join(map(str, entries)) or 'nothing'}")
            within = entries[parent]
        else:
            within = within.setdefault(parent, {})
        if not isinstance(within, dict | list):
            raise ConfigError(f"{name}: {parent} is a single value, it has no fields")
    if not isinstance(within, dict):
        raise ConfigError(f"{name}: {parents[-1]} is a list; name one of its entries, then the field")
    within[last] = value


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting's dotted name, sections before their fields."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += field_names(field.annotation, f"{prefix}{name}.")
    return names


def describe(error: Any, model: type[BaseModel]) -> str:
    """One line for one pydantic error, with the nearest valid key where a key is unknown."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg']} (got {error.get('input')!r})"
    near = difflib.get_close_matches(name, field_names(model), n=1, cutoff=0.0)
    return f"{name}: unknown setting; did you mean {near[0]!r}?"
