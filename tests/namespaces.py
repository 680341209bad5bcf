"""A second machine on this one: a network namespace with an address of its own, joined to ours by a cable.

Processes in it share files and memory with us, and see nothing of us but what comes over the cable.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

SHELL = "ip netns exec {host}"  # a namespace is named like its address


class Elsewhere:
    """A namespace and our end of the cable; `here` is our address in it, `there` its own, and its name."""

    def __init__(self, number: int):
        self.cable, self.here, self.there = f"lr{number}", f"10.231.{number}.1", f"10.231.{number}.2"

    def pids(self) -> list[int]:
        """The processes of the other machine."""
        return [int(pid) for pid in ip("netns", "pids", self.there).split()]

    def cut(self) -> None:
        """Pull the cable."""
        ip("link", "set", self.cable, "down")


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def missing() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if not shutil.which("ip"):
        return "there is no `ip` command (iproute2)"
    if os.geteuid():
        return "only root may make network namespaces"
    try:
        with elsewhere(255):
            return ""
    except OSError as error:
        return str(error)


@contextmanager
def elsewhere(number: int) -> Iterator[Elsewhere]:
    """Another machine, until its processes are ended and it is gone."""
    other = Elsewhere(number)
    remove(other)
    try:
        ip("netns", "add", other.there)
        ip("link", "add", other.cable, "type", "veth", "peer", "name", f"{other.cable}p", "netns", other.there)
        ip("addr", "add", f"{other.here}/30", "dev", other.cable)
        ip("link", "set", other.cable, "up")
        ip("-n", other.there, "addr", "add", f"{other.there}/30", "dev", f"{other.cable}p")
        for device in ("lo", f"{other.cable}p"):
            ip("-n", other.there, "link", "set", device, "up")
        yield other
    finally:
        remove(other)


def remove(other: Elsewhere) -> None:
    """End what runs there and take the namespace away; nothing happens where there is none."""
    try:
        for pid in other.pids():
            os.kill(pid, 9)
    except OSError:
        pass
    for words in (("link", "del", other.cable), ("netns", "del", other.there)):
        subprocess.run(["ip", *words], capture_output=True)
