"""Start the ranks of a training job as one process group, listen to them, and never leave one behind.

    launch("longrl.training.sft_loop", job, ranks=2, folder=draft.folder, listen=print)

The stage runs in Prefect's process, training in these. On a rank's failure, on KeyboardInterrupt or any other exception
here the group gets SIGTERM and, some seconds later, SIGKILL. When this process is itself killed, by SIGKILL even, the
ranks see their lifeline end (see `rank`). torchrun is not used on one machine: it adds a third process between, and
orphans its workers when it is killed. On several machines it starts the ranks of each (see `nodes`).

A rank that neither gives a sign of life nor computes for `SILENCE` seconds is frozen; it ends the group too. One that
lives but never joins the others' collective is left to the collective's own time-out (half an hour, DeepSpeed's
default): until then it may be slow work.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longrl.training import pulse
from longrl.training.rank import LIFELINE, MESSAGES, RankLost, TrainingError

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
LOG_TAIL = 25  # lines of a failed rank's log that go into the error
WRITE_TO = "write to"  # in the line that names the ranks' logs; `make logs` looks for it

log = logging.getLogger(__name__)


def launch(
    module: str,
    job: dict[str, Any],
    ranks: int,
    folder: Path,
    listen: Callable[[dict[str, Any]], None],
    threads: int = 1,
) -> None:
    """Run `module.main(job, messages)` in `ranks` processes and return when all have finished.

    `job` (JSON-serialisable) is written to `folder/.job.json`; each rank's output goes to `folder/.logs/rank-<n>.log`;
    `listen` gets every message of every rank, a dictionary with "kind"; what a rank logged is logged here again, with
    its level. `threads` is OMP_NUM_THREADS of a rank.

    Raises `TrainingError` with the rank's own words, or with its exit status and the end of its log; `RankLost` when it
    was killed by a signal or froze.
    """
    logs = folder / ".logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = folder / ".job.json"
    path.write_text(json.dumps(job))
    lifeline, hold = os.pipe()  # this process alone holds the write end: its death is the end of the pipe
    incoming, outgoing = os.pipe()
    port = free_port()
    processes: list[subprocess.Popen[bytes]] = []
    log.info("%s: %d ranks %s %s", module.rpartition(".")[2], ranks, WRITE_TO, logs)
    try:
        for rank in range(ranks):
            with (logs / f"rank-{rank}.log").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "longrl.training.rank", module, str(path)],
                        env=environment(rank, ranks, threads, port)
                        | {LIFELINE: str(lifeline), MESSAGES: str(outgoing)},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        pass_fds=(lifeline, outgoing),
                        process_group=processes[0].pid if rank else 0,
                    )
                )
        os.close(outgoing)
        outgoing = -1
        supervise(processes, incoming, logs, listen)
    finally:
        end_group(processes)
        for descriptor in (lifeline, hold, incoming, outgoing):
            if descriptor >= 0:
                os.close(descriptor)


def supervise(
    processes: list[subprocess.Popen[bytes]], incoming: int, logs: Path, listen: Callable[[dict[str, Any]], None]
) -> None:
    """Pass messages on until every rank has ended well; raise `TrainingError` as soon as one has not."""
    selector = selectors.DefaultSelector()
    selector.register(incoming, selectors.EVENT_READ)
    rest = b""
    beats = pulse.Pulse({rank: process.pid for rank, process in enumerate(processes)})
    while True:
        statuses = [process.poll() for process in processes]
        failed = [rank for rank, status in enumerate(statuses) if status]
        ended = bool(failed) or None not in statuses
        while selector.select(timeout=0.0 if ended else 0.2):
            chunk = os.read(incoming, 65536)
            if not chunk:
                selector.unregister(incoming)
            *lines, rest = (rest + chunk).split(b"\n")
            for message in map(json.loads, lines):
                if message["kind"] == "alive":
                    beats.felt(message["rank"], message["pid"])
                else:
                    hear(message, listen)
            if not ended:
                break
        else:  # all that was said has been heard
            if (rank := beats.frozen(rank for rank, status in enumerate(statuses) if status is None)) is not None:
                raise RankLost(describe_frozen(rank, logs))
        if failed:  # a rank that lost its peer exits by itself a little later: name the one that was killed first
            first = min(failed, key=lambda rank: statuses[rank] or 0)
            status = statuses[first] or 0
            raise (RankLost if status < 0 else TrainingError)(describe_failure(first, status, logs))
        if ended:
            return


def hear(message: dict[str, Any], listen: Callable[[dict[str, Any]], None]) -> None:
    """Pass on what a rank says; raises `TrainingError` when it says why it can't go on."""
    match message["kind"]:
        case "error":
            raise TrainingError(message["message"])
        case "log":
            log.log(message["level"], "rank %d, %s: %s", message["rank"], message["logger"], message["text"])
        case _:
            listen(message)


def describe_frozen(rank: int, logs: Path, node: str = "") -> str:
    """Which rank froze, and what to do."""
    return (
        f"training rank {rank}{node and f' on node {node}'} has given no sign of life for {pulse.SILENCE:.0f} s: it or "
        f"its machine is frozen; run again to go on from the last checkpoint; its log is {logs / f'rank-{rank}.log'}"
    )


def describe_failure(rank: int, status: int, logs: Path, node: str = "") -> str:
    """Which rank ended how, and the last lines it wrote."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    hint = " (out of memory? reduce prompts per step, frames or ranks)" if status == -signal.SIGKILL else ""
    path = logs / f"rank-{rank}.log"
    return f"training rank {rank}{node and f' on node {node}'} {how}{hint}; the end of {path}:\n{tail(path)}"


def tail(path: Path) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL:])


def end_group(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to the whole group, SIGKILL after `GRACE` seconds; returns when every rank has been reaped."""
    if not processes or all(process.poll() == 0 for process in processes):
        return
    group = processes[0].pid
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(0.05)
    for process in processes:
        process.wait()


def environment(rank: int, ranks: int, threads: int, port: int) -> dict[str, str]:
    """The variables torch.distributed and DeepSpeed read, beside this process's own."""
    return {
        **os.environ,
        **of_every_rank(threads),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def of_every_rank(threads: int) -> dict[str, str]:
    """The variables that all ranks share."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",
    }


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
