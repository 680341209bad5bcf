"""Kill or cancel what a running `make ui` runs, and watch what becomes of it."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.flows.serving import Served

# What tells a process of each kind by its command line.
KINDS = {
    "server": ("flows.serve",),
    "worker": ("prefect", "worker", "start"),
    "run": ("prefect.engine",),
    "ranks": ("longrl.training.rank",),
}
PIPELINE = "pipeline/pipeline"
LASTING = ("server", "worker")  # beside `deployments.ui` itself
RANKED = ("pretrain", "sft", "difficulty", "rl", "evaluate")  # stages that compute in ranks


def words(pid: int) -> list[str]:
    """A process's command line; empty when it has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return [] if state == "Z" else Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def found(served: Served, kind: str) -> list[int]:
    """Processes of a kind."""
    return sorted(pid for pid in served.processes() if set(KINDS[kind]) <= set(words(pid)))


def of_runs(served: Served) -> list[int]:
    """All processes of runs: what is neither the server, nor the worker, nor `make ui` itself."""
    lasting = {served.process.pid, *(pid for kind in LASTING for pid in found(served, kind))}
    return [pid for pid in served.processes() if pid not in lasting and words(pid)]


def until(true: Callable[[], object], seconds: float, what: str, pause: float = 0.1) -> float:
    """Seconds until `true()` holds, asked every `pause` seconds."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not in {seconds:.0f} s: {what}")
        time.sleep(pause)
    return time.monotonic() - started


def wait_for_stage(served: Served, run_id: str, stage: str, seconds: float = 540.0) -> None:
    """Return when the run computes a stage; where that has ranks, when there are some.

    Some stages take a fraction of a second, so the folder is looked at often and the server asked rarely.
    """
    folder, asked = served.home.parent / "warehouse" / stage, 0.0

    def busy() -> bool:
        nonlocal asked
        if any(folder.glob(".draft-*")) and (stage not in RANKED or found(served, "ranks")):
            return True
        if time.monotonic() - asked > 2:
            state, asked = served.run(run_id)["state_type"], time.monotonic()
            assert state in ("SCHEDULED", "PENDING", "RUNNING"), f"{state} before {stage}"
        return False

    until(busy, seconds, f"stage {stage}", pause=0.01)


@dataclass
class Ended:
    """What became of a run: its state and the seconds to it, and the seconds until none of its processes was left."""

    state: str
    reported: float
    gone: float


def kill(served: Served, run_id: str, *kinds: str) -> Ended:
    """SIGKILL all processes of these kinds at once, and wait for the run's end."""
    victims = [pid for kind in kinds for pid in found(served, kind)]
    assert victims, f"there is no {' or '.join(kinds)}"
    started = time.monotonic()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    return ended(served, run_id, started)


def cancel(served: Served, run_id: str) -> Ended:
    """Cancel the run as the button in the UI does, and wait for its end."""
    started = time.monotonic()
    state = {"type": "CANCELLING", "name": "Cancelling"}
    served.ask(f"/flow_runs/{run_id}/set_state", {"state": state})
    return ended(served, run_id, started)


def ended(served: Served, run_id: str, started: float) -> Ended:
    """Wait until the run is reported as ended and none of its processes is left, in either order."""
    gone = reported = 0.0
    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def both() -> bool:
        nonlocal gone, reported
        now = time.monotonic() - started
        if not gone and not of_runs(served):
            gone = now
        if not reported and served.run(run_id)["state_type"] in final:
            reported = now
        return bool(gone and reported)

    until(both, 240.0, "the run's end")
    return Ended(served.run(run_id)["state_type"], round(reported, 1), round(gone, 1))


def walk(served: Served, stages: Sequence[str], end: Callable[[str], Ended]) -> Iterator[tuple[str, Ended]]:
    """Run the pipeline once for each stage and have `end` end it there; then let it finish.

    Fails when something that was finished is made again, or something is missing at the end.
    """
    warehouse = served.home.parent / "warehouse"
    before: dict[Path, float] = {}
    for stage in stages:
        run_id = served.start(PIPELINE)
        wait_for_stage(served, run_id, stage)
        yield stage, end(run_id)
        now = made(warehouse)
        assert before.items() <= now.items(), f"something finished was made again before {stage}"
        before = now
    run_id = served.start(PIPELINE)
    state = served.state(run_id, seconds=540)
    assert state["type"] == "COMPLETED", state["message"]
    assert before.items() <= made(warehouse).items()
    assert not list(warehouse.glob("*/.draft-*"))


def made(warehouse: Path) -> dict[Path, float]:
    """Every finished artifact and when it was finished."""
    return {path.parent: path.stat().st_mtime for path in warehouse.glob("*/*/manifest.json")}
