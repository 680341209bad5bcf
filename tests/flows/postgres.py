"""A real PostgreSQL server on a free port, its data in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.flows.serving import free_port

USER = "prefect"


@dataclass
class Postgres:
    """A running server with one empty database."""

    port: int
    programs: Path
    as_user: list[str]

    @property
    def url(self) -> str:
        """What Prefect's server is told."""
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{self.port}/prefect"

    def ask(self, query: str) -> list[str]:
        """The rows of an answer, their columns joined by |."""
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", "prefect", "-Atc", query]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def missing() -> str:
    """Why no PostgreSQL can be started here; empty when one can."""
    if not (programs() and shutil.which("psql")):
        return "PostgreSQL is not installed"
    if not (Path(extensions()) / "pg_trgm.control").exists():
        return "PostgreSQL's extension pg_trgm is not installed"
    if os.geteuid() == 0 and not (shutil.which("setpriv") and unprivileged()):
        return "PostgreSQL does not run as root, and there is no other user to run it as"
    return ""


def programs() -> Path | None:
    """The folder of initdb and postgres."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("initdb"):
        places.insert(0, Path(found).resolve().parent)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def extensions() -> str:
    """The folder of extensions' control files."""
    config = programs() / "pg_config"  # type: ignore[operator]
    if config.exists():
        told = subprocess.run([config, "--sharedir"], capture_output=True, text=True).stdout.strip()
        return f"{told}/extension"
    version = programs().parent.name  # type: ignore[union-attr]
    return f"/usr/share/postgresql/{version}/extension"


def unprivileged() -> pwd.struct_passwd | None:
    """A user that PostgreSQL may run as."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Make a cluster, start it, and end it; nothing is left."""
    folder, as_user = Path(tempfile.mkdtemp(prefix="longrl-pg-", dir="/tmp")), []
    if os.geteuid() == 0:
        user = unprivileged()
        assert user
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    place, data, port = programs(), folder / "data", free_port()
    assert place
    subprocess.run(
        [*as_user, place / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    command = [*as_user, place / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        here = Postgres(port, place, as_user)
        deadline = time.monotonic() + 60
        create = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", "postgres"]
        while subprocess.run([*create, "-c", "CREATE DATABASE prefect"], capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise OSError((folder / "log").read_text())
            time.sleep(0.2)
        yield here
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
