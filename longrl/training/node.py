"""One machine of a training job on several: `python -m longrl.training.node`, started on each by `nodes.launch`.

torchrun starts and watches the ranks. What this adds is the line to the first machine, over whatever shell started it:

    stdin     the order, a line of JSON; then a beat every few seconds
    stdout    JSON lines: beats, what the ranks say, and how it ended

When stdin ends or falls silent, the first machine or the network to it is gone: this process ends, and by their
lifeline, a FIFO that it alone holds open for writing, all ranks here with it. So no machine is left computing for a job
that no longer exists.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from longrl.training.launch import GRACE
from longrl.training.pulse import SILENCE, Pulse, runs
from longrl.training.rank import BEAT, LIFELINE, LOGS, MESSAGES

RENDEZVOUS = 300  # seconds in which all machines must have come
SIOCGIFADDR = 0x8915


class Line:
    """stdout, for messages alone: what libraries print goes to stderr."""

    def __init__(self) -> None:
        self._descriptor, self._lock = os.dup(1), threading.Lock()
        os.dup2(2, 1)

    def send(self, kind: str, **values: Any) -> None:
        """Send one message."""
        self.forward(json.dumps({"kind": kind, **values}).encode() + b"\n")

    def forward(self, lines: bytes) -> None:
        """Send whole lines as they are; when nobody listens any more, everything here ends."""
        with self._lock:
            try:
                while lines:
                    lines = lines[os.write(self._descriptor, lines) :]
            except OSError:
                os._exit(1)


class Node:
    """The ranks of this machine and the line to the first one."""

    def __init__(self, order: dict[str, Any], line: Line):
        self.order, self.line = order, line
        self.folder = Path(tempfile.mkdtemp(prefix="longrl-node-"))
        self.pulse, self._heard = Pulse({}), threading.Event()
        self.given_up = False  # the first machine is gone, or wants no more
        for name in ("lifeline", "messages"):
            os.mkfifo(self.folder / name, 0o600)
        self._hold = os.open(self.folder / "lifeline", os.O_RDWR)
        self._incoming = os.open(self.folder / "messages", os.O_RDWR)  # RDWR: it never ends, however ranks come and go
        (self.folder / "job.json").write_text(json.dumps(order["job"]))

    def prepare(self) -> None:
        """Give this process, whose ranks inherit it, the first machine's environment where it has none of its own."""
        own = {**self.order["environment"], **os.environ, **self.order["always"]}
        own |= {LIFELINE: f"{self.folder / 'lifeline'}", MESSAGES: f"{self.folder / 'messages'}"}
        own |= {LOGS: self.order["logs"], "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{GRACE:.0f}"}
        if interface := interface_towards(self.order["address"]):
            own.setdefault("GLOO_SOCKET_IFNAME", interface)  # a host's own name often means 127.0.1.1
        os.environ.update(own)
        os.chdir(self.order["folder"])

    def run(self) -> dict[int, int]:
        """Run the ranks to their end; returns the exit statuses, by rank, of those that failed."""
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        order = self.order
        options = {
            "nnodes": order["nodes"],
            "nproc-per-node": order["ranks"],
            "node-rank": order["node"],
            "master-addr": order["address"],
            "master-port": order["port"],
            "max-restarts": 0,
            "rdzv-conf": f"timeout={RENDEZVOUS}",
        }
        command = [f"--{name}={value}" for name, value in options.items()]
        try:
            run(parse_args([*command, "-m", "longrl.training.rank", order["module"], str(self.folder / "job.json")]))
        except ChildFailedError as error:
            first = order["node"] * order["ranks"]
            # ranks that torchrun itself ended after the first failure tell nothing
            return {
                first + failure.local_rank: failure.exitcode
                for failure in error.failures.values()
                if failure.exitcode != -signal.SIGTERM
            } or {rank: failure.exitcode for rank, failure in error.failures.items()}
        return {}

    def relay(self) -> None:
        """Pass on what ranks say, keep their beats, and tell of one that froze."""
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._incoming, 65536)).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message["kind"] == "alive":
                    self.pulse.felt(message["rank"], message["pid"])
                elif message["kind"] == "heard":
                    self._heard.set()
                else:
                    self.line.forward(line + b"\n")

    def drain(self) -> None:
        """Return when all that ranks have said so far is passed on."""
        os.write(self._incoming, b'{"kind": "heard"}\n')
        self._heard.wait(GRACE)

    def beat(self) -> None:
        """Say that this machine lives, and look after its ranks."""
        while True:
            self.line.send("alive")
            pids = dict(self.pulse.pids)
            if (rank := self.pulse.frozen(rank for rank, pid in pids.items() if runs(pid))) is not None:
                self.line.send("frozen", rank=rank)
            time.sleep(BEAT)

    def obey(self, stdin: BinaryIO) -> None:
        """Wait for the end of the line or its silence, and end everything then."""
        heard = [time.monotonic()]

        def listen() -> None:
            while os.read(stdin.fileno(), 4096):
                heard[0] = time.monotonic()
            heard[0] = float("-inf")

        threading.Thread(target=listen, daemon=True, name="line").start()
        while time.monotonic() - heard[0] <= SILENCE:
            time.sleep(0.2)
        self.given_up = True
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun hands it on to the ranks
        time.sleep(2 * GRACE)
        self.end(1)

    def end(self, status: int) -> None:
        """End this process and every process group of its ranks, now."""
        for pid in self.pulse.pids.values():
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(status)


def interface_towards(address: str) -> str:
    """The network interface (IPv4) over which `address` is reached; empty when that can't be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                try:
                    found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                except OSError:
                    continue
                if socket.inet_ntoa(found[20:24]) == own:
                    return name
    except OSError:
        pass
    return ""


def main() -> None:
    """Read the order, run the ranks, tell how it ended."""
    if sys.argv[1:] == ["--here"]:  # the doctor asks no more
        return
    line = Line()
    order = b""
    while not order.endswith(b"\n"):  # unbuffered: the beats after it are for `obey`
        if not (piece := os.read(0, 1 << 16)):
            sys.exit("no order came")
        order += piece
    node = Node(json.loads(order), line)
    for work in (node.relay, node.beat, lambda: node.obey(sys.stdin.buffer)):
        threading.Thread(target=work, daemon=True).start()
    status = 1
    try:
        node.prepare()
        failed = node.run()
        node.drain()
        line.send("done" if not failed else "failed", statuses=failed)
        status = int(bool(failed))
    except OSError as error:
        line.send("error", message=f"node {node.order['name']}: {error}; every node needs the same paths")
    except BaseException:
        if not node.given_up:
            traceback.print_exc()
    finally:
        sys.stderr.flush()
        node.end(status)


if __name__ == "__main__":
    main()
