"""What the documentation promises is there, and what is there is documented."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

from docs.generate import PAGE, page
from longrl.config import GenerateConfig, PipelineConfig, Settings

ROOT = Path(__file__).parents[2]
TARGETS = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
TASKS = [path.stem for path in sorted((ROOT / "tasks").glob("*.py")) if "stage_task\ndef " in path.read_text()]
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("data", "teachers", "video")
    for path in sorted((ROOT / "longrl" / room).rglob("*.py"))
    if ">>> " in path.read_text()
]


def test_the_configuration_page_is_the_generated_one():
    assert PAGE.read_text() == page(), "run `make docs`"


def sections() -> list[type[Settings]]:
    return [
        field.annotation
        for config in (PipelineConfig, GenerateConfig)
        for field in config.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    ]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_setting_has_a_description(section):
    assert [name for name, field in section.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_is_in_make_help(target):
    assert re.search(rf"^{target}:.*## \w", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("target", re.findall(r"make ([a-z][a-z-]+)", (ROOT / "README.md").read_text()))
def test_every_make_target_of_the_readme_exists(target):
    assert target in TARGETS


def test_every_page_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("stage", [*TASKS, "report"])
def test_every_stage_is_in_the_table_of_the_architecture(stage):
    rows = re.findall(r"^\| `(\w+)` \|.*\| `([\w.]+)` \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert importlib.util.find_spec(dict(rows)[stage])


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_docstrings_of_the_data_engine_are_right(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted
    assert results.failed == 0
