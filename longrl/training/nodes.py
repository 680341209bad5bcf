"""Start a training job on several machines (see `hosts`) and watch over all of them from the first.

On each machine `node` runs torchrun for the ranks there. Its stdin and stdout, through whatever shell started it, are
the only line between it and this process: beats go both ways, and messages of ranks come back. A machine that ends or
falls silent ends the job, by name, within half a minute; where this process ends, so does every machine.

The machines must see the same code, packages, warehouse and videos at the same paths.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from longrl.training import pulse
from longrl.training.hosts import SHELL, address_towards, machines, shell
from longrl.training.launch import (
    GRACE,
    WRITE_TO,
    describe_failure,
    describe_frozen,
    free_port,
    hear,
    log,
    of_every_rank,
    tail,
)
from longrl.training.rank import BEAT, RankLost, TrainingError

START = 180.0  # seconds in which a machine must answer
SETTLE = 8.0  # seconds between a rank's failure and the report, in which its cause may be heard from another machine


@dataclass
class Machine:
    """A machine of the job, as this process sees it."""

    number: int
    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    heard: float = field(default_factory=time.monotonic)
    spoken: bool = False  # it has answered at least once
    finished: bool = False  # it has told how it ended
    rest: bytes = b""


def launch(
    module: str,
    job: dict[str, Any],
    ranks: int,
    nodes: int | Sequence[str],
    folder: Path,
    listen: Callable[[dict[str, Any]], None],
    threads: int = 1,
) -> None:
    """Run `module.main(job, messages)` in `ranks` processes on each of the machines; see `launch.launch`.

    Raises `TrainingError` when a machine can't be reached, with what its shell said, and `RankLost`, with the machine's
    name, when it is lost later.
    """
    hosts = machines(nodes)
    logs = folder / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    address = address_towards(hosts[1])
    order = {
        "module": module,
        "job": job,
        "ranks": ranks,
        "nodes": len(hosts),
        "address": address,
        "port": free_port(address),
        "logs": str(logs),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "always": of_every_rank(threads),
    }
    log.info("%s: %d ranks on each of %s %s %s", module.rpartition(".")[2], ranks, ", ".join(hosts), WRITE_TO, logs)
    started: list[Machine] = []
    try:
        for number, name in enumerate(hosts):
            before = shell(name, isinstance(nodes, int)) if number else []
            started.append(start(number, name, [*before, sys.executable, "-m", "longrl.training.node"], logs))
            tell(started[-1], json.dumps(order | {"node": number, "name": name}).encode() + b"\n")
        with beating(started):
            supervise(started, ranks, logs, listen)
    finally:
        end(started)


def start(number: int, name: str, command: list[str], logs: Path) -> Machine:
    """Start `node` on a machine, in a process group of its own."""
    path = logs / f"node-{number}.log"
    try:
        with path.open("wb") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0, process_group=0
            )
    except OSError as error:
        raise TrainingError(f"node {name} can't be reached by `{shlex.join(command)}`: {error}") from error
    return Machine(number, name, command, path, process)


def tell(machine: Machine, words: bytes) -> None:
    """Write to a machine's stdin, whole; one that has ended is left to `supervise`."""
    assert machine.process.stdin
    with suppress(BrokenPipeError, ValueError):
        while words:
            words = words[machine.process.stdin.write(words) or 0 :]


@contextmanager
def beating(started: list[Machine]) -> Iterator[None]:
    """Beats for every machine while this lasts, however busy the listener is."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            for machine in started:
                tell(machine, b"\n")

    thread = threading.Thread(target=beat, daemon=True, name="beat")
    thread.start()
    try:
        yield
    finally:
        over.set()


def supervise(started: list[Machine], ranks: int, logs: Path, listen: Callable[[dict[str, Any]], None]) -> None:
    """Pass messages on until every machine has ended well; raise as soon as one has not."""
    selector = selectors.DefaultSelector()
    for machine in started:
        assert machine.process.stdout
        selector.register(machine.process.stdout, selectors.EVENT_READ, machine)
    failed: dict[int, int] = {}  # exit statuses of ranks
    since = 0.0
    while selector.get_map():
        for key, _ in selector.select(0.2):
            machine = key.data
            chunk = os.read(key.fd, 65536)
            if not chunk:
                selector.unregister(key.fileobj)
                if not machine.finished:
                    lost(machine, f"`{shlex.join(machine.command)}` ended with status {machine.process.wait()}")
            machine.heard = time.monotonic()
            *lines, machine.rest = (machine.rest + chunk).split(b"\n")
            for message in filter(None, map(parse, lines)):
                machine.spoken = True
                match message["kind"]:
                    case "alive":
                        pass
                    case "frozen":
                        raise RankLost(describe_frozen(message["rank"], logs, machine.name))
                    case "done" | "failed":
                        machine.finished = True
                        since = since if failed else time.monotonic()
                        failed |= {int(rank): status for rank, status in message["statuses"].items()}
                    case _:
                        hear(message, listen)
        for key in list(selector.get_map().values()):
            silent = time.monotonic() - key.data.heard
            if silent > (pulse.SILENCE if key.data.spoken else START):
                lost(key.data, f"it has given no sign of life for {silent:.0f} s")
        killed = [rank for rank, status in failed.items() if status < 0]
        if killed or (failed and time.monotonic() - since > SETTLE):
            break
    if failed:
        first = min(failed, key=lambda rank: failed[rank])
        kind = RankLost if failed[first] < 0 else TrainingError
        raise kind(describe_failure(first, failed[first], logs, started[first // ranks].name))


def parse(line: bytes) -> dict[str, Any] | None:
    """A message; anything else on the line is a greeting of some login shell."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "kind" in message else None


def lost(machine: Machine, how: str) -> NoReturn:
    """Raise what a person should know of a machine that is gone, or was never there."""
    said = f"; the end of {machine.log}:\n{tail(machine.log)}"
    if not machine.spoken:
        raise TrainingError(
            f"node {machine.name} could not be started: {how}. It must be reachable without a password, by ssh or by "
            f"the command in {SHELL}, and have the same code, packages and warehouse at the same paths{said}"
        )
    raise RankLost(
        f"node {machine.name} was lost: {how}; the machine or the network to it is gone. Run again to go on from the "
        f"last checkpoint, without it if need be{said}"
    )


def end(started: list[Machine]) -> None:
    """Close every line, which ends the ranks behind it; returns when this machine's processes have been reaped."""
    for machine in started:
        with suppress(BrokenPipeError):
            machine.process.stdin.close()  # type: ignore[union-attr]
    deadline = time.monotonic() + 3 * GRACE
    for machine in started:
        try:
            machine.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # a shell whose other end is gone
            with suppress(ProcessLookupError):
                os.killpg(machine.process.pid, 9)
            machine.process.wait()
        machine.process.stdout.close()  # type: ignore[union-attr]
