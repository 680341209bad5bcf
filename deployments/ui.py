"""`make ui`: a Prefect server, a worker and every deployment of prefect.yaml on this machine, until Ctrl-C.

The server is a process of its own rather than the temporary one that flows start by themselves: its SQLite database is
written by one process only, whatever runs at the same time. Server and worker each lead a session, so that a Ctrl-C
reaches this process alone and the end comes in order: the runs end and report themselves as crashed while worker and
server are still there (a worker that is ended first kills them, and they stay `Running` for ever), then the worker,
then the server, and last whatever is left of their sessions. A run that ends without a report, as one that has just
begun, gets it from here. A server or a worker that is killed is started again: runs wait for the server, and end with
their worker (`deployments.lifeline`).
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import filelock
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.settings import PREFECT_HOME

from deployments.part import Part, say
from deployments.register import FILE, POOL, POOLS, ROOT
from flows.arguments import config_of, fail_in_words, parser
from flows.serve import report_killed
from flows.server import ADDRESS, HOST, SETTINGS, USERS, ServerError, healthy, wait_for, write_address

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LET_GO = 10.0  # seconds that the server of a command that has just ended may take to end too


def environment(port: int, arguments: list[str]) -> dict[str, str]:
    """What server, worker and runs must know of this server; `arguments` are what forms start with."""
    api = f"http://{HOST}:{port}/api"
    return os.environ | {
        **SETTINGS,
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",  # flows keep it for the stages' lines; here it is a file
        "LONGRL_ROOT": str(ROOT),
        "LONGRL_ARGUMENTS": shlex.join(arguments),
        **POOLS,
    }


@contextmanager
def sole_user(home: Path) -> Iterator[int]:
    """Hold the folder of Prefect's database; yields the lock that commands wait for until there is a server.

    Raises `ServerError` when another `make ui` has the folder, or a command with a server of its own.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home / "longrl-ui.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ServerError(
            f"another `make ui` keeps its database in {home}; give this one a folder of its own: "
            "make ui PORT=4201 PREFECT_HOME=/another/folder"
        ) from None
    with lock, (home / USERS).open("w") as users:
        deadline = time.monotonic() + LET_GO
        while not free(users.fileno()):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"a command is running that keeps its database in {home}; wait until it has ended, or give this "
                    "server a folder of its own: make ui PREFECT_HOME=/another/folder"
                )
            time.sleep(0.2)
        yield users.fileno()


def free(users: int) -> bool:
    """Take the lock that commands share while they use a server, if none does."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def serve(port: int, home: Path, users: int, arguments: list[str], file: Path = FILE) -> None:
    """Run server and worker until this process is interrupted, or one can't be kept; nothing is left behind."""
    env = environment(port, arguments)
    url = env["PREFECT_API_URL"]
    parts: list[Part] = []
    try:
        print(f"starting the Prefect server on port {port} ...", flush=True)
        answers = partial(healthy, url)
        parts.append(server := Part("server", ["flows.serve", "--port", str(port)], env, home, answers))
        wait_for(server.process, answers, server.log)
        if subprocess.run([sys.executable, "-m", "deployments.register", str(file)], cwd=ROOT, env=env).returncode:
            raise ServerError(f"not everything of {file} could be registered")
        worker = ["prefect", "--no-prompt", "worker", "start", "--pool", POOL, "--type", "process"]
        parts.append(Part("worker", worker, env, home))
        with found_by_commands(home, users, url):
            print(f"\n  http://{HOST}:{port}\n\nlogs: {home}/server.log, worker.log; Ctrl-C ends both", flush=True)
            while True:
                for part in parts:
                    part.keep()
                time.sleep(0.5)
    finally:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        say("\nending the runs, the worker and the server ...", sys.stdout)
        for part in reversed(parts):
            try:
                if part.name == "server" and healthy(url):
                    asyncio.run(report_lost(url))
            finally:
                part.end()


async def report_lost(url: str) -> None:
    """Report runs as crashed that could not do so themselves, for instance because they had just begun."""
    try:
        async with PrefectClient(api=url) as client:
            await report_killed(client, of_workers=True)
    except httpx.HTTPError as error:
        say(f"the server did not take how runs ended ({error}); they stay shown as running", sys.stderr)


@contextmanager
def found_by_commands(home: Path, users: int, url: str) -> Iterator[None]:
    """Have commands with the same PREFECT_HOME use this server."""
    write_address(home, url)
    fcntl.flock(users, fcntl.LOCK_SH)
    try:
        yield
    finally:
        (home / ADDRESS).unlink(missing_ok=True)


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
        with sole_user(home) as users:
            try:
                serve(options.port, home, users, arguments, options.file.absolute())
            except KeyboardInterrupt:
                say("ended", sys.stdout)


if __name__ == "__main__":
    main()
