"""Rooms: who may import whom, and what must not be imported just to open the UI."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    """Top-level names of every module a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(ROOT.glob("longrl/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_nothing_of_prefect(path):
    assert not imported(path) & {"prefect", "flows", "tasks"}


def test_opening_the_flows_loads_neither_torch_nor_vllm():
    names = ("pipeline", "dataset", "train", "evaluate", "benchmark", "stage", "generate")
    code = f"import sys, {', '.join(f'flows.{name}' for name in names)}, deployments.ui; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"torch", "vllm", "transformers", "deepspeed", "diffusers"} & set(loaded.split())
