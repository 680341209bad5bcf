"""A warehouse that processes of several machines share: NFS's rules for locks, equal process ids, kills in between."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from longrl.doctor import machine
from longrl.mrsp import eviction
from longrl.warehouse import sharing
from longrl.warehouse.artifacts import Warehouse, digest_folder
from longrl.warehouse.ledger import Ledger

# Five artifacts of six items each; what was computed is told in one line an item, which one write puts there whole.
WRITER = """
import os, sys, time
from pathlib import Path
from longrl.warehouse import catalog, ledger
from longrl.warehouse.artifacts import Warehouse

root, told, local = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT), sys.argv[3] == "WAL"
ledger.is_local = lambda path: local
for number in range(5):
    def build(draft):
        keys = {str(item): f"{number}-{item}" for item in range(6)}
        known = draft.known(keys)
        for item, key in keys.items():
            if item not in known:
                time.sleep(0.02)
                draft.ledger.put(key, item)
                os.write(told, f"{key}\\n".encode())
        (draft.folder / "items.txt").write_text(" ".join(draft.known(keys)))

    warehouse = Warehouse(root)
    warehouse.produce("count", 1, {"number": number}, {}, build)
    catalog.rebuild(warehouse)
"""
SAME_PID = """
import os, sys
import numpy as np
from pathlib import Path
from longrl.warehouse import sharing
from longrl.warehouse.artifacts import Warehouse

assert os.getpid() == 1
mark, other = (Path(sys.argv[1]) / f"mark-{n}" for n in (sys.argv[2], 1 - int(sys.argv[2])))
mark.touch()
while not other.exists():
    pass
for round in range(400):
    Warehouse(sys.argv[1])
"""


@pytest.mark.parametrize("journal", [pytest.param("WAL", marks=pytest.mark.slow), "rollback"])
def test_writers_that_are_killed_again_and_again_leave_a_whole_warehouse(tmp_path, journal):
    told, chance, kills = tmp_path / "told", random.Random(7), 0
    command = [sys.executable, "-c", WRITER, str(tmp_path / "warehouse"), str(told), journal]
    writers = [subprocess.Popen(command) for _ in range(2)]
    while kills < 4:
        lines = told.read_bytes().count(b"\n") if told.exists() else 0
        target = min(lines + chance.randint(1, 5), 29)
        while told.exists() is False or (told.read_bytes().count(b"\n") < target and writers[0].poll() is None):
            time.sleep(0.01)
        victim = writers.pop(0)  # the other one goes on, or takes its place at the lock
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        kills += 1
        writers.append(subprocess.Popen(command))
    assert [writer.wait(60) for writer in writers] == [0, 0]

    warehouse = Warehouse(tmp_path / "warehouse")
    manifests = list((warehouse.root / "count").glob("[!.]*/manifest.json"))
    assert len(manifests) == 5
    for path in manifests:
        assert json.loads(path.read_text())["digest"] == digest_folder(path.parent)
        assert (path.parent / "items.txt").read_text() == "0 1 2 3 4 5"
    computed = Counter(told.read_text().split())
    assert len(computed) == 30
    assert sum(computed.values()) <= 30 + kills  # at most the item in flight, which may be in the ledger by then
    assert not list((warehouse.root / "count").glob(".*"))
    assert bool(list((warehouse.root / "count").glob("ledger.sqlite-journal"))) == (journal == "rollback")


def test_a_ledger_on_a_shared_file_system_keeps_no_shared_memory(tmp_path, monkeypatch):
    Ledger(tmp_path / "ledger.sqlite").close()  # begun on a disk, and copied
    monkeypatch.setattr("longrl.warehouse.ledger.is_local", lambda path: False)
    two = [Ledger(tmp_path / "ledger.sqlite") for _ in range(2)]
    two[0].put("a", 1)
    two[1].put("b", 2)
    assert two[0].get_many(["a", "b"]) == {"a": 1, "b": 2}
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm"))]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="PID namespaces need root and unshare")
def test_processes_of_one_number_on_two_machines_do_not_meet(tmp_path):
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", SAME_PID, str(tmp_path)]
    pair = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(2)]
    assert [process.communicate(timeout=120)[1] for process in pair] == ["", ""]
    name = Path("/somewhere/file.npy")
    assert len({sharing.unfinished(name) for _ in range(100)}) == 100


def as_nfs_locks(file, how: int, flock=fcntl.flock) -> None:
    """flock(2) on NFS: a shared lock wants a file open for reading, an exclusive one a file open for writing."""
    handle = file if isinstance(file, int) else file.fileno()
    opened = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
    if (how & fcntl.LOCK_SH and opened == os.O_WRONLY) or (how & fcntl.LOCK_EX and opened == os.O_RDONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    flock(file, how)


def test_pins_of_the_embedding_cache_hold_under_the_rules_of_nfs(tmp_path, monkeypatch):
    monkeypatch.setattr("longrl.mrsp.eviction.fcntl.flock", as_nfs_locks)
    for name in ("kept", "gone"):
        path = tmp_path / "ab" / name / f"plan{eviction.ENDING}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
    pins = eviction.Pins(tmp_path)
    pins.add(tmp_path / "ab" / "kept" / f"plan{eviction.ENDING}")
    assert eviction.evict(tmp_path, 0) == (1, 100)
    assert (tmp_path / "ab" / "kept" / f"plan{eviction.ENDING}").exists()


@pytest.mark.parametrize("option", ["nolock", "local_lock=all", "localflock"])
def test_the_doctor_refuses_a_mount_whose_locks_stay_on_one_machine(tmp_path, option):
    assert machine.no_locks(tmp_path, "rw,vers=4.2,local_lock=none") == ""
    assert "other machines don't see" in machine.no_locks(tmp_path, f"rw,vers=3,{option}")
    assert not list(tmp_path.iterdir())


def test_kinds_of_file_system_are_read_from_the_kernel(tmp_path):
    kind, options = sharing.mounted(tmp_path / "not" / "there")
    assert "rw" in options.split(",")
    assert sharing.is_local(tmp_path) == (kind in sharing.LOCAL)
    assert sharing.mounted(Path("/proc/self")) == ("proc", "rw")
    assert not sharing.is_local(Path("/proc/self"))
