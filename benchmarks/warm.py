"""How long a second `make dataset` takes on 18,000 videos of which nothing has changed.

A folder of 18,000 small films is made: one rendered film of four seconds, and copies of it with a tail of their own, so
that every file has its own bytes. Two runs of `python -m flows dataset` follow, as `make dataset` starts it. The first
one names, probes, cuts, captions and questions every film for real (most of this benchmark's time). The second one is
what is measured, with all it does: starting Python and Prefect's server, listing the folder, finding 18,000 names in
the ledger, looking up each stage's artifact and rebuilding the catalog of all tables. The same on 10 films shows how
much of it is the start. `ARGS='--videos N'` takes another number.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, Report

BAR = 30.0  # seconds
FEW = 10
ROOT = Path(__file__).parents[1]
SETTINGS = {"segment.clip_seconds": "2", "caption.frames_per_clip": "2", "caption.size": "28"}


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="warm")
    parser.add_argument("--videos", type=int, default=18_000)
    chosen = parser.parse_args(options)
    report = Report(settings={"videos": chosen.videos} | SETTINGS)
    for count in (FEW, chosen.videos):
        with tempfile.TemporaryDirectory(prefix="warm-") as folder:
            report.rows.append(measure(Path(folder), count))
    report.bars.append(Bar(f"warm_dataset_{chosen.videos}_seconds", report.rows[-1]["warm"], BAR, lower_is_better=True))
    return report


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Seconds of the first run and of the second one, on `count` films."""
    write_films(folder / "films", count)
    first, _ = flow(folder)
    warm, output = flow(folder)
    stages = [line.split() for line in output.splitlines() if " rows" in line]
    if {words[-1] for words in stages} != {"cached"}:
        raise RuntimeError(f"the second run computed something again:\n{output}")
    rows = {f"{words[0]}_rows": int(words[1]) for words in stages}
    return {"videos": count, "first": round(first, 2), "warm": round(warm, 2)} | rows


def write_films(folder: Path, count: int) -> None:
    """A film, and copies of it that end in a number of their own; players pass over what follows the last box."""
    import av
    import numpy as np

    folder.mkdir()
    first = folder / "film-000000.mp4"
    with av.open(str(first), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(16):  # a dark red half with a white block that moves, then a bright blue one without
            picture = np.full((64, 64, 3), (90, 10, 10) if index < 8 else (120, 160, 250), np.uint8)
            if index < 8:
                picture[24:40, 4 * index : 4 * index + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = first.read_bytes()
    for number in range(1, count):
        (folder / f"film-{number:06d}.mp4").write_bytes(data + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))


def flow(folder: Path) -> tuple[float, str]:
    """Seconds and output of the dataset flow in a process of its own."""
    sets = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    paths = ["--videos", str(folder / "films"), "--warehouse", str(folder / "warehouse")]
    environment = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flows", "dataset", *paths, *sets],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - started, done.stdout
