"""The dataset flow on a real local Ray of two workers: the same lines, states, errors and exit code as without it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.videos import noisy_frames, write_video

pytest.importorskip("ray")
pytest.importorskip("prefect_ray")

ROOT = Path(__file__).parents[2]


def dataset(folder: Path, warehouse: Path, runner: str) -> subprocess.CompletedProcess[str]:
    """`python -m flows dataset` as make starts it."""
    command = [sys.executable, "-m", "flows", "dataset", "--videos", str(folder), "--warehouse", str(warehouse)]
    environment = os.environ | {
        "PREFECT_HOME": str(warehouse.parent / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [*command, "--set=segment.clip_seconds=2", "--runner", runner],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a stage made, without its seconds."""
    return [re.sub(r"[\d.]+ s$", "", line).rstrip() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_ray_makes_the_same_dataset_and_finds_it_again(tmp_path):
    folder = tmp_path / "films"
    for seed, light in enumerate((40, 120)):
        dark = np.full((8, 64, 96, 3), light, np.uint8)
        write_video(folder / f"{seed}.mp4", np.concatenate([dark, noisy_frames(8, seed=seed)]), fps=4.0)
    plain, ray = (dataset(folder, tmp_path / runner, runner) for runner in ("prefect", "ray"))
    assert plain.returncode == 0, plain.stderr
    assert ray.returncode == 0, ray.stderr
    assert lines(ray) == lines(plain)
    again = dataset(folder, tmp_path / "ray", "ray")
    assert {line.split()[-1] for line in again.stdout.splitlines()} == {"cached"}


@pytest.mark.slow
def test_an_error_in_a_ray_worker_is_the_same_message(tmp_path):
    (tmp_path / "films").mkdir()
    done = dataset(tmp_path / "films", tmp_path / "warehouse", "ray")
    assert done.returncode == 1
    assert f"error: no videos in {tmp_path / 'films'}" in done.stderr
    assert "Traceback" not in done.stderr
