"""What all settings share: frozen, closed to unknown keys, and split into what is made and how it is done."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from longrl.errors import LongrlError

Categories = ("temporal", "goal", "spatial", "plot", "sound")
AnyCategory = (*Categories, "general")  # general: of questions that show no video, and name none of the others
Share = Annotated[float, Field(ge=0.0, le=1.0)]


# How the work is done, not what is made: such a setting is no part of an artifact's key.
Effort = partial(Field, json_schema_extra={"effort": True})

# Came when there were artifacts already: while it has its default, which is how those were made, it is in no key.
Later = partial(Field, json_schema_extra={"later": True})


class ConfigError(LongrlError):
    """A setting is unknown or out of range; the message names the field and the remedy."""


WRITTEN = {
    "sft": "SFT",
    "rl": "RL",
    "kl": "KL",
    "gib": "GiB",
    "mib": "MiB",
    "url": "URL",
    "api": "API",
    "mlp": "MLP",
    "lora": "LoRA",
}


def title(name: str, _: object = None) -> str:
    """How a form writes a field's name.

    >>> title("kl_estimator"), title("base_url"), title("clip_seconds")
    ('KL estimator', 'Base URL', 'Clip seconds')
    """
    words = " ".join(WRITTEN.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def bounds(schema: dict[str, Any]) -> str:
    """What a number may be, in words, for Prefect's form does not show it.

    >>> bounds({"type": "integer", "minimum": 2, "maximum": 6}), bounds({"type": "number", "exclusiveMinimum": 0.0})
    ('2 to 6', 'above 0')
    """
    if {"minimum", "maximum"} <= schema.keys():
        words = [f"{schema['minimum']:g} to {schema['maximum']:g}"]
    else:
        names = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
        words = [f"{word} {schema[name]:g}" for name, word in names.items() if name in schema]
    if "multipleOf" in schema:
        words.append(f"a multiple of {schema['multipleOf']:g}")
    return ", ".join(words)


def for_people(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Order a form by what matters, own settings before those shared with other sections, and tell every bound."""
    shared = {name for base in model.__bases__ for name in getattr(base, "model_fields", {})}
    fields = schema.get("properties", {})
    for field in fields.values():
        number: dict[str, Any] = next((kind for kind in field.get("anyOf", ()) if kind.get("type") != "null"), field)
        if words := bounds(number):
            field["description"] = f"{field.get('description', '')} [{words}]".strip()
    schema["properties"] = dict(sorted(fields.items(), key=lambda field: field[0] in shared))


class Settings(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        field_title_generator=title,
        json_schema_extra=for_people,
    )

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is made, as plain JSON values; an artifact's key is computed from these."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            told = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            if told.get("effort"):
                continue
            value = _plain(self, name)
            if told.get("later") and value == _plain(type(self).model_construct(), name):
                continue
            values[name] = value
        return values


def _plain(settings: Settings, name: str) -> Any:
    """One setting as a JSON value."""
    value = getattr(settings, name)
    return value.identity() if isinstance(value, Settings) else settings.model_dump(mode="json", include={name})[name]
