"""What Prefect and all that surrounds the stages cost: seconds of a `make pipeline` of which everything is finished.

The smallest run of the tiny recipe is made once; then the same command runs again, in which every stage's artifact is
there. What is measured is the whole command with nothing taken off: Python's start, Prefect's own server, its end, ten
and more task runs, the catalog, and the report, which is written anew each time. Modules are loaded from bytecode, as
in any installation that has been used once. Several rounds, of which the quickest counts: other work on the machine
only ever adds.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Bar, Report
from tests.flows.small import SMALL_RUN

BAR = 10.0  # seconds
ROOT = Path(__file__).parents[1]
SETTINGS = SMALL_RUN | {"evaluate.samples": "0"}


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="overhead")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(options)
    report = Report(settings=dict(SETTINGS))
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        pipeline(Path(folder))
        for number in range(chosen.rounds):
            cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds, output = pipeline(Path(folder))
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            stages = [line.split()[-1] for line in output.splitlines() if " rows" in line]
            if set(stages) != {"cached"}:
                raise RuntimeError(f"the run computed something again:\n{output}")
            own = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
            row = {"round": number, "seconds": round(seconds, 2), "cpu_seconds_without_server": round(own, 2)}
            report.rows.append(row | {"stages": len(stages), "load": round(os.getloadavg()[0], 1)})
            print(report.rows[-1], flush=True)
    quickest = min(row["seconds"] for row in report.rows)
    report.bars.append(Bar("warm_pipeline_seconds", quickest, BAR, lower_is_better=True))
    return report


def pipeline(folder: Path) -> tuple[float, str]:
    """Seconds and output of the command that `make pipeline` runs."""
    sets = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "-m", "flows", "pipeline", "--warehouse", str(folder / "warehouse"), *sets]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "OMP_NUM_THREADS": "1",
    }
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - started, done.stdout
