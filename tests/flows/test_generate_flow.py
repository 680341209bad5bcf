"""`make generate-rl` as a user runs it: fresh, again, and on folders and prompts that can't work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "prompts.limit": "10",
    "generator.height": "16",
    "generator.width": "16",
    "generator.layers": "2",
    "generator.heads": "2",
    "pretrain.steps": "2",
    "pretrain.batch": "4",
    "rl.steps": "2",
    "rl.prompts_per_step": "2",
    "rl.group_size": "2",
    "rl.sampling.steps": "3",
    "rl.sampling.window": "1",
    "rl.sampling.window_to": "0",
    "compare.steps": "2",
    "compare.samples": "2",
}


def run(warehouse: Path, recipe: str, *arguments: str, status: int = 0, **settings: str) -> str:
    """Run `python -m flows.generate` to its end and return what it printed."""
    sets = [f"--set={name}={value}" for name, value in (SMALL | settings).items()]
    command = [sys.executable, "-m", "flows.generate", "--recipe", recipe, "--warehouse", str(warehouse), *sets]
    environment = os.environ | {
        "PREFECT_HOME": str(warehouse.parent / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "frames", "ending"), [("tiny-image", "1", "png"), ("tiny-video", "5", "mp4")])
def test_a_run_ends_with_a_report_and_a_second_one_is_cached(tmp_path, recipe, frames, ending):
    warehouse = tmp_path / "warehouse"
    settings = {"generator.frames": frames}
    run(warehouse, recipe, **settings)
    folder = warehouse / "reports" / "latest-generation"
    summary = json.loads((folder / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == [
        "prompts", "generator", "conditioning", "flowmatch", "flowgrpo", "compare",
    ]  # fmt: skip
    assert summary["figures"]["reward"]["gain"] is not None
    assert summary["figures"]["diversity"]["base"] > 0
    page = (folder / "index.html").read_text()
    kind = "video/mp4" if ending == "mp4" else "image/png"
    assert page.count(f"data:{kind};base64,") == 2 * 2 * 2  # models, held-out prompts, samples
    assert not re.search(r'(?:src|href)="(?!data:|#|summary\.json)', page)
    assert len(list(warehouse.glob(f"compare/*/drawn/rl/*.{ending}"))) == 4
    run(warehouse, recipe, **settings)
    again = json.loads((folder / "summary.json").read_text())
    assert all(stage["cached"] for stage in again["stages"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("--model", "nowhere"), "no folder of a diffusers pipeline", marks=pytest.mark.slow),
        pytest.param(("--prompts", "nowhere.txt"), "can't be read", marks=pytest.mark.slow),
        (("--set=rl.stepz=3",), "did you mean 'rl.steps'"),
        (("--set=rl.rewards={beauty: 1}",), "unknown reward 'beauty'"),
    ],
)
def test_what_can_not_work_ends_in_words(tmp_path, arguments, words):
    output = run(tmp_path / "warehouse", "tiny-image", *arguments, status=1)
    assert "error:" in output
    assert words in output
    assert "Traceback" not in output
