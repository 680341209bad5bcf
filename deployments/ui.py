"""`make ui`: a Prefect server, a worker and every deployment of prefect.yaml on this machine, until Ctrl-C.

The server is a process of its own rather than the temporary one that flows start by themselves: its SQLite database is
written by one process only, whatever runs at the same time. Server and worker each lead a session, so that a Ctrl-C
reaches this process alone and the end comes in order: the runs end and report themselves as crashed while worker and
server are still there (a worker that is ended first kills them, and they stay `Running` for ever), then the worker,
then the server, and last whatever is left of their sessions.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import filelock
from prefect.settings import PREFECT_HOME

from deployments.register import FILE, POOL, POOLS, ROOT
from flows.arguments import config_of, fail_in_words, parser
from longrl.errors import LongrlError

HOST = "127.0.0.1"
START = 180.0  # seconds that a server may take to start
GRACE = {"worker": 15.0, "server": 8.0}  # seconds to end by themselves
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RUN_GRACE = 30.0  # seconds that all runs together may take to end


class ServerError(LongrlError):
    """The server or its worker could not be started, or ended by itself; the message names the remedy or the log."""


def environment(port: int, arguments: list[str]) -> dict[str, str]:
    """What server, worker and runs must know of this server; `arguments` are what forms start with."""
    api = f"http://{HOST}:{port}/api"
    return os.environ | {
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",  # flows keep it for the stages' lines; here it is a file
        "LONGRL_ROOT": str(ROOT),
        "LONGRL_ARGUMENTS": shlex.join(arguments),
        **POOLS,
    }


@contextmanager
def sole_user(home: Path) -> Iterator[None]:
    """Hold the folder of Prefect's database; raises `ServerError` when another `make ui` has it."""
    home.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home / "longrl-ui.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ServerError(
            f"another `make ui` keeps its database in {home}; give this one a folder of its own: "
            "make ui PORT=4201 PREFECT_HOME=/another/folder"
        ) from None
    with lock:
        yield


def check_port(port: int) -> None:
    """Raises `ServerError` when something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerError(
                f"port {port} can't be used ({error.strerror}), perhaps another `make ui` has it; stop that one, or "
                f"choose another port and folder: make ui PORT={port + 1} PREFECT_HOME=/another/folder"
            ) from error


def start(*command: str, log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start `prefect <command>` as the leader of a session, its output appended to a log."""
    with log.open("ab") as output:
        full = [sys.executable, "-m", "prefect", "--no-prompt", *command]
        return subprocess.Popen(
            full,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers; raises `ServerError` when it ends or takes longer than `START`."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise ServerError(f"the Prefect server did not start; the end of {log}:\n{tail}")


def end(name: str, process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, its runs first, and end whatever is then left of its session."""
    end_children(process.pid)
    process.terminate()
    try:
        process.wait(GRACE[name])
    except subprocess.TimeoutExpired:
        print(f"the {name} takes too long; killing it", file=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in session(process.pid):
            tell(pid, number)
        deadline = time.monotonic() + 5.0
        while session(process.pid) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.1)


def end_children(leader: int) -> None:
    """Ask the children of a session's leader to end, and give them time to."""
    children = {pid for pid, parent in session(leader).items() if parent == leader}
    for pid in children:
        tell(pid, signal.SIGTERM)
    deadline = time.monotonic() + RUN_GRACE
    while children & session(leader).keys() and time.monotonic() < deadline:
        time.sleep(0.2)


def tell(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def session(leader: int) -> dict[int, int]:
    """Processes of a session that still run, each with its parent."""
    members = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, sid = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it ended while we looked
            continue
        if int(sid) == leader and state != "Z":
            members[int(stat.parent.name)] = int(parent)
    return members


def serve(port: int, home: Path, arguments: list[str], file: Path = FILE) -> None:
    """Run server and worker until one ends or this process is interrupted; nothing is left behind."""
    env = environment(port, arguments)
    logs = {name: home / f"{name}.log" for name in GRACE}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        print(f"starting the Prefect server on port {port} ...", flush=True)
        running["server"] = start("server", "start", "--host", HOST, "--port", str(port), log=logs["server"], env=env)
        wait_until_healthy(running["server"], env["PREFECT_API_URL"], logs["server"])
        if subprocess.run([sys.executable, "-m", "deployments.register", str(file)], cwd=ROOT, env=env).returncode:
            raise ServerError(f"not everything of {file} could be registered")
        running["worker"] = start("worker", "start", "--pool", POOL, "--type", "process", log=logs["worker"], env=env)
        print(f"\n  http://{HOST}:{port}\n\nlogs: {home}/server.log, worker.log; Ctrl-C ends both", flush=True)
        while all(process.poll() is None for process in running.values()):
            time.sleep(0.5)
        ended = next(name for name, process in running.items() if process.poll() is not None)
        raise ServerError(f"the {ended} ended by itself; its last words are in {logs[ended]}")
    finally:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        print("\nending the runs, the worker and the server ...", flush=True)
        for name in reversed(list(running)):
            end(name, running[name])


def interrupt(_: int, __: FrameType | None) -> None:
    """Whatever asks this process to end does so as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Read the command line, refuse what can't work before anything is started, and serve."""
    own = argparse.ArgumentParser(
        description=__doc__, epilog="All other arguments are what the forms start with.", allow_abbrev=False
    )
    own.add_argument("--port", type=int, default=4200, help="port of the server")
    own.add_argument("--file", type=Path, default=FILE, help="the deployments to register")
    options, arguments = own.parse_known_args()
    for number in ENDS:
        signal.signal(number, interrupt)
    with fail_in_words():
        config_of(parser("What forms start with.").parse_args(arguments))  # fails once here, not in each deployment
        check_port(options.port)
        home = PREFECT_HOME.value()
        with sole_user(home):
            try:
                serve(options.port, home, arguments, options.file.absolute())
            except KeyboardInterrupt:
                print("ended", flush=True)


if __name__ == "__main__":
    main()
