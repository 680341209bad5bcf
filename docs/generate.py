"""Write docs/configuration.md from the settings themselves, and the figures of benchmarks/README.md from the results.

`make docs` runs it. Tests keep both pages equal to what they are made from.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from docs import figures
from longrl.config import GenerateConfig, PipelineConfig, generation_recipes, recipes

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

Every setting of every stage, generated from `longrl/config/` by `make docs`. A recipe (`longrl/recipes/<name>.yaml`)
holds what differs from the defaults below; the recipes are: {recipes}.

    make pipeline RECIPE=tiny SEED=1 SET='rl.steps=80 sft.ranks=1'   # any setting by its dotted name
    make config RECIPE=tiny                                         # print the resolved configuration and stop

A stage's artifact is named by the hash of its own section (and its inputs), so changing a setting reruns that stage and
what depends on changed bytes, nothing else. Unknown settings are errors that name the nearest valid one.
"""

GENERATION = """
## Generation

Settings of `make generate-rl` ([generation.md](generation.md)); the recipes are: {recipes}.
"""

TABLE = "| setting | default | meaning |\n|---|---|---|\n"


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One table row a field; nested sections are listed under their dotted names."""
    lines = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += rows(field.annotation, f"{prefix}{name}.")
            continue
        default: Any = field.get_default(call_default_factory=True, validated_data={})
        if name == "phases":
            default = "one phase of questions"
        lines.append(f"| `{prefix}{name}` | `{default!r}` | {field.description or ''} |")
    return lines


def page() -> str:
    """The whole page as Markdown."""
    head = HEAD.format(recipes=", ".join(f"`{name}`" for name in recipes()))
    names = ", ".join(f"`{name}`" for name in generation_recipes())
    return whole(PipelineConfig, head, "##") + whole(GenerateConfig, GENERATION.format(recipes=names), "###")


def whole(config: type[BaseModel], head: str, level: str) -> str:
    """All sections of one configuration under its head."""
    parts = [head]
    general = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(f"\n{level} {name}\n\n{(field.annotation.__doc__ or '').strip()}\n\n{TABLE}")
            parts.append("\n".join(rows(field.annotation, f"{name}.")) + "\n")
        else:
            general.append(f"| `{name}` | `{field.get_default()!r}` | {field.description} |")
    parts.insert(1, f"\n{level} The run\n\n{TABLE}" + "\n".join(general) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    figures.PAGE.write_text(figures.filled(figures.PAGE.read_text()))
    print(f"wrote {PAGE.name} and the figures of {figures.PAGE.parent.name}/{figures.PAGE.name}", file=sys.stderr)
