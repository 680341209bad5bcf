"""Which machines a training job runs on, and how they are reached.

nodes: 2              the machines of the SLURM job that this runs in, reached by `srun`
nodes: [gpu1, gpu2]   these, reached by `ssh`, or by the command in LONGRL_REMOTE_SHELL; the first is this machine
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from longrl.training.rank import TrainingError

SHELL = "LONGRL_REMOTE_SHELL"
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=4 {host}"
SRUN = "srun --overlap --nodes=1 --ntasks=1 --nodelist={host}"


def machines(nodes: int | Sequence[str]) -> list[str]:
    """The names of the job's machines, this one first.

    Raises `TrainingError` where they can't be told, or the first is another machine.
    """
    if isinstance(nodes, int):
        return of_slurm(nodes)
    if not is_here(nodes[0]):
        raise TrainingError(
            f"nodes begins with {nodes[0]}, but this is {socket.gethostname()}: name the machine first on which the "
            "flow runs, or start the worker there"
        )
    return list(nodes)


def of_slurm(count: int) -> list[str]:
    """So many machines of the SLURM job that this process runs in, this one first."""
    if not (listed := os.environ.get("SLURM_JOB_NODELIST")):
        raise TrainingError(
            f"nodes is {count}, but this runs in no SLURM job: start it from deployments/slurm, or name the machines, "
            "this one first: nodes=[gpu1,gpu2]"
        )
    names = subprocess.run(["scontrol", "show", "hostnames", listed], check=True, capture_output=True, text=True)
    hosts = names.stdout.split()
    here = os.environ.get("SLURMD_NODENAME", hosts[0])
    hosts.sort(key=lambda host: host != here)
    if len(hosts) < count:
        raise TrainingError(f"nodes is {count}, but the SLURM job has {len(hosts)}: {', '.join(hosts)}")
    return hosts[:count]


def is_here(name: str) -> bool:
    """Whether a name is this machine's; one that only the remote shell knows is taken to be."""
    if name in (socket.gethostname(), socket.getfqdn()):
        return True
    try:
        places = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        return True
    for family, kind, *_, address in places:
        with socket.socket(family, kind) as probe, suppress(OSError):
            probe.bind(address)
            return True
    return False


def address_towards(host: str) -> str:
    """This machine's own address, as `host` sees it; where that is unknown, the one of the default route."""
    for target in (host, "192.0.2.1"):  # a documentation address (RFC 5737): a route is looked up, nothing is sent
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    return socket.gethostname()


def shell(host: str, of_slurm: bool) -> list[str]:
    """The command that runs another on `host`, before that command."""
    template = os.environ.get(SHELL) or (SRUN if of_slurm else SSH)
    return [word.replace("{host}", host) for word in shlex.split(template)]
