"""Which Prefect server a command talks to: that of PREFECT_API_URL, or one that it finds or starts for itself.

Prefect would start a temporary server for every process that has none. Here commands with the same PREFECT_HOME share
one, for its SQLite database should be written by one process only, and none is left behind:

1. A command that needs a server holds the lock of `longrl-server.users` in that folder, shared with the others. The
   kernel lets go of it when the process ends, also when it is killed; then the server ends too (see `flows.serve`).
2. The first one starts the server, which writes its address into `longrl-server.json` when runs may come; the server
   of `make ui` is found there too.
3. A server that is killed is started again by the command that started it, on the same port: the runs go on.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from longrl.errors import LongrlError

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
START = 180.0  # seconds that a server may take to start, the first time with all its tables to make
USERS, ADDRESS, LOG = "longrl-server.users", "longrl-server.json", "server.log"
# What a server does that only serves commands: no schedules, no workers, no pages.
SPARE = {
    **dict.fromkeys((f"PREFECT_SERVER_SERVICES_{name}_ENABLED" for name in ("SCHEDULER", "LATE_RUNS", "FOREMAN")), "0"),
    **dict.fromkeys((f"PREFECT_SERVER_SERVICES_{name}_ENABLED" for name in ("PAUSE_EXPIRATIONS", "DB_VACUUM")), "0"),
    "PREFECT_SERVER_UI_ENABLED": "0",
}
# What every server of longrl needs: leases of limits that outlive it; states of tasks written many at once.
SETTINGS = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


log = logging.getLogger("longrl.flows")
_coming: Future[tuple[str, ExitStack]] | None = None


class ServerError(LongrlError):
    """A server could not be started; the message holds the end of its log."""


def begin() -> None:
    """Start looking for a server, or starting one, while the caller goes on to import what takes long."""
    global _coming
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        return
    coming: Future[tuple[str, ExitStack]] = Future()

    def open_it() -> None:
        try:
            coming.set_result(open_server(settings.home))
        except BaseException as error:
            coming.set_exception(error)

    _coming = coming
    threading.Thread(target=open_it, daemon=True, name="prefect-server").start()


@contextmanager
def prefect_server() -> Iterator[str]:
    """A server for what runs in here, the one that was begun or another; yields its address.

    That of PREFECT_API_URL is taken as it is, one that is started here has all that runs need (`flows.bootstrap`).
    Raises `ServerError` when none can be started.
    """
    global _coming
    from prefect.settings import get_current_settings

    if _coming is None:
        begin()
    if _coming is None:
        yield get_current_settings().api.url or ""
        return
    coming, _coming = _coming, None
    url, held = coming.result()
    with held, talking_to(url):
        yield url


def open_server(home: Path) -> tuple[str, ExitStack]:
    """A server's address, and what keeps it from ending until it is closed. Imports nothing of Prefect."""
    with ExitStack() as held:
        held.enter_context(using(home))
        with filelock.FileLock(home / "longrl-server.lock"):
            url = running(home) or held.enter_context(own(home))
        return url, held.pop_all()


@contextmanager
def using(home: Path) -> Iterator[None]:
    """Keep the server of this folder from ending; waits for one that is just about to."""
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / USERS, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def running(home: Path) -> str:
    """Address of the server that the folder names, if it answers; else empty."""
    try:
        url = str(json.loads((home / ADDRESS).read_text())["url"])
    except (OSError, ValueError, KeyError):
        return ""
    return url if healthy(url) else ""


def healthy(url: str) -> bool:
    """Whether a server answers there."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
    return True


@contextmanager
def own(home: Path) -> Iterator[str]:
    """Start a server that ends after its last user, and start it again when it is killed; yields its address."""
    port = free_port()
    url = f"http://{HOST}:{port}/api"
    server = start(port, home)
    wait_for(server, lambda: running(home) == url, home / LOG)
    left = threading.Event()

    def keep() -> None:
        process = server
        while not left.wait(1.0):
            if process.poll() is not None:
                log.warning("the Prefect server of this run was ended from outside; starting it again")
                process = start(port, home)

    threading.Thread(target=keep, daemon=True, name="prefect-server").start()
    try:
        yield url
    finally:
        left.set()


def start(port: int, home: Path) -> subprocess.Popen[bytes]:
    """The process of a server for commands; Ctrl-C at the terminal does not reach it."""
    command = [sys.executable, "-m", "flows.serve", "--port", str(port), "--own", str(home)]
    with (home / LOG).open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=SETTINGS | SPARE | os.environ | {"PREFECT_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(server: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    """Return when a server is ready; raises `ServerError` when it ends or takes longer than `START`."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and server.poll() is None:
        if ready():
            return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise ServerError(f"the Prefect server did not start; the end of {log}:\n{tail}")


def write_address(home: Path, url: str) -> None:
    """Tell commands with this PREFECT_HOME where the server is."""
    draft = home / f"{ADDRESS}.new"
    draft.write_text(json.dumps({"url": url}))
    draft.replace(home / ADDRESS)


@contextmanager
def talking_to(url: str) -> Iterator[None]:
    """Have Prefect use this server in every thread and every process that is started in here."""
    from prefect.context import refresh_global_settings_context
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    try:
        yield
    finally:
        APILogWorker.drain_all()  # what is sent at the interpreter's exit would miss the server
        EventsWorker.drain_all()
        del os.environ["PREFECT_API_URL"]
        refresh_global_settings_context()


def free_port() -> int:
    """A TCP port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
