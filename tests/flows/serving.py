"""`make ui` as tests start it: a real server and worker on a free port, with a Prefect home of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.flows.small import SMALL_RUN

ROOT = Path(__file__).parents[2]
SMALL = SMALL_RUN | {"stories.count": "12", "rl.steps": "3", "evaluate.samples": "0"}


@dataclass
class Served:
    """A running `make ui`."""

    process: subprocess.Popen[str]
    port: int
    home: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers to a POST."""
        request = urllib.request.Request(
            f"{self.url}/api{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def deployments(self) -> dict[str, dict[str, Any]]:
        """By `flow/deployment`."""
        flows = {flow["id"]: flow["name"] for flow in self.ask("/flows/filter")}
        return {f"{flows[item['flow_id']]}/{item['name']}": item for item in self.ask("/deployments/filter")}

    def start(self, name: str, **parameters: Any) -> str:
        """Run a deployment and return the flow run's id."""
        deployment = self.deployments()[name]
        return self.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]

    def run(self, run_id: str) -> dict[str, Any]:
        (found,) = self.ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return found

    def state(self, run_id: str, *wanted: str, seconds: float = 300.0) -> dict[str, Any]:
        """The run's state once its type is one of `wanted`, or any final one."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} | set(wanted)
        wait_for(lambda: self.run(run_id)["state_type"] in final, seconds)
        return self.run(run_id)["state"]

    def processes(self) -> list[int]:
        """All processes that belong to it, however far removed."""
        return processes(self.home)


def processes(home: Path) -> list[int]:
    """Those with this Prefect home in their environment."""
    marks = f"PREFECT_HOME={home}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marks in place.read_bytes().split(b"\0"):
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def wait_for(true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"nothing happened in {seconds:.0f} s"
        time.sleep(1.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(folder: Path, *arguments: str, **settings: str) -> Iterator[Served]:
    """Start it, wait until it has printed its address, and end it as Ctrl-C does."""
    port, home = free_port(), folder / "prefect"
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "OMP_NUM_THREADS": "1",
    }
    sets = [f"--set={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "deployments.ui", "--port", str(port), "--warehouse", str(folder / "warehouse")]
    process = subprocess.Popen(
        [*command, *arguments, *sets],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    said = []
    assert process.stdout
    for line in process.stdout:
        said.append(line)
        if line.startswith("logs:"):
            break
    else:
        raise AssertionError("".join(said))
    try:
        yield Served(process, port, home, environment)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        if process.stdout.closed:
            process.wait(120)
        else:
            process.communicate(timeout=120)
