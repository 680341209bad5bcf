"""What all settings share: frozen, closed to unknown keys, and split into what is made and how it is done."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from longrl.errors import LongrlError

Categories = ("temporal", "goal", "spatial", "plot")
Share = Annotated[float, Field(ge=0.0, le=1.0)]


# How the work is done, not what is made: such a setting is no part of an artifact's key.
Effort = partial(Field, json_schema_extra={"effort": True})


class ConfigError(LongrlError):
    """A setting is unknown or out of range; the message names the field and the remedy."""


class Settings(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is made, as plain JSON values; an artifact's key is computed from these."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("effort"):
                continue
            value = getattr(self, name)
            values[name] = value.identity() if isinstance(value, Settings) else self.model_dump(mode="json")[name]
        return values
