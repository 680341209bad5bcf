"""Checks of the machine: Python, the libraries that read films, disk, memory, shared memory."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

from longrl.config import PipelineConfig
from longrl.doctor.finding import Finding, gib, ok
from longrl.doctor.needs import TRAINED, disk_bytes, ranks, weights_bytes
from longrl.warehouse.sharing import mounted, unfinished

OLDEST, TOO_NEW = (3, 11), (3, 13)
LEAST_DISK, GOOD_DISK = 200 * 2**20, 5 * 2**30  # bytes free; less breaks even the smallest run, or becomes tight
DOCKERS_SHARED = 64 * 2**20  # bytes of /dev/shm that Docker gives unless told otherwise
RANK_BYTES = 2**30  # torch, DeepSpeed and vLLM in one process, before any weights


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """The interpreter's version."""
    words = f"Python {'.'.join(map(str, version))}"
    if OLDEST <= version[:2] < TOO_NEW:
        return ok(words)
    return Finding(
        "failure", f"{words} is not 3.11 or 3.12", "run make setup PYTHON=/path/to/python3.11 in a new .venv"
    )


def decoders() -> Finding:
    """PyAV and decord load, with the ffmpeg in them; tried in another process, for they start threads."""
    code = "import av, decord; print(av.__version__, decord.__version__, av.ffmpeg_version_info)"
    try:
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return Finding("warning", "PyAV and decord did not load within a minute", "look at what keeps the disk busy")
    if tried.returncode == 0:
        av, decord, ffmpeg = tried.stdout.split()[-3:]
        return ok(f"films are read with PyAV {av} (ffmpeg {ffmpeg}) and decord {decord}")
    why = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
    remedy = "install them anew: touch requirements.lock && make setup; both bring their own ffmpeg"
    return Finding("failure", f"films can't be read: {why}", remedy)


def disk(config: PipelineConfig, run: tuple[str, ...]) -> Finding:
    """Free space where the warehouse is."""
    free = shutil.disk_usage(standing(Path(config.warehouse))).free
    need = LEAST_DISK + disk_bytes(config, run)
    words = f"{gib(free)} of disk are free for the warehouse {config.warehouse}"
    remedy = "free some space or choose another disk with WAREHOUSE=/path"
    if free < need:
        return Finding("failure", f"{words}; the run writes {gib(need)} or more", remedy)
    if free < max(GOOD_DISK, 2 * need):
        return Finding("warning", f"{words}, which may become tight", remedy)
    return ok(words)


def memory(config: PipelineConfig, run: tuple[str, ...], gpu: bool) -> Finding:
    """Memory that is free, against what processes and weights take; the smallest limit of this process's cgroups."""
    free, total = memory_bytes()
    processes = max(ranks(config, run).values(), default=0)
    weights = weights_bytes(config)
    need = processes * RANK_BYTES + (0 if gpu else 8 * weights)  # float32 weights, gradients, two moments
    if "rl" in run and not gpu and not config.rl.rollout.servers:
        need += int(config.rl.rollout.kv_cache_gib * 2**30) * config.rl.ranks // config.rl.rollout.tensor_parallel
    words = f"{gib(free)} of {gib(total)} memory are free"
    remedy = "end other programs, or lower ranks and rl.rollout.kv_cache_gib, for example SET='sft.ranks=1 rl.ranks=1'"
    if total < weights:
        return Finding("failure", f"{words}; the student's weights alone are {gib(weights)}", remedy, TRAINED)
    if free < need:
        return Finding("warning", f"{words}; training takes about {gib(need)}", remedy)
    return ok(words)


def shared_memory(config: PipelineConfig, run: tuple[str, ...], gpus: int, folder: str = "/dev/shm") -> Finding:
    """The shared memory through which GPUs' ranks, tensor-parallel engines and rollout servers exchange data."""
    if "rl" in run and config.rl.rollout.servers:
        folder = config.rl.rollout.weights_folder
    if not os.path.isdir(folder):
        return Finding(
            "failure" if "rl" in run and config.rl.rollout.servers else "warning",
            f"there is no folder {folder}",
            f"mount it: mount -t tmpfs -o size=16g shm {folder}; or set rl.rollout.weights_folder",
            ("rl",),
        )
    usage = shutil.disk_usage(folder)
    words = f"{gib(usage.free)} of {gib(usage.total)} are free in {folder}"
    remedy = f"docker run --shm-size=16g, or mount -o remount,size=16g {folder}"
    if "rl" in run and config.rl.rollout.servers and usage.free < weights_bytes(config):
        return Finding("failure", f"{words}; new weights for the servers take {gib(weights_bytes(config))}", remedy)
    needed = gpus > 1 or config.rl.rollout.tensor_parallel > 1 or config.runner == "ray"
    if usage.total <= DOCKERS_SHARED and needed:
        return Finding("warning", f"{words}, little for several processes that work together", remedy)
    return ok(words)


def warehouse(config: PipelineConfig) -> Finding:
    """The folder of all artifacts can be written to, and its file system keeps locks and what was written."""
    path = Path(config.warehouse).absolute()
    place = standing(path)
    try:
        probe = unfinished(place / "writable")
        probe.touch()
        probe.unlink()
        if place != path and not place.is_dir():
            raise NotADirectoryError(20, "Not a directory")
    except OSError as error:
        return Finding(
            "failure",
            f"the warehouse {path} can't be written to: {error.strerror}",
            "choose another folder with WAREHOUSE=/path, or change the owner of this one",
        )
    kind, options = mounted(place)
    words = f"the warehouse {path} is writable (file system {kind})"
    if why := no_locks(place, options):
        remedy = "mount it as NFS 4 without `nolock` or `local_lock`, or choose another disk with WAREHOUSE=/path"
        return Finding("failure", f"{words}; {why}", remedy)
    if kind.startswith(("cifs", "smb", "fuse")):
        remedy = "with writers on several machines use NFS 4, or a cluster file system with flock"
        return Finding("warning", f"{words}; whether other machines see its locks is not known", remedy)
    if kind in ("tmpfs", "ramfs"):
        return Finding(
            "warning", f"{words}; it is memory and gone after a restart", "choose a disk with WAREHOUSE=/path"
        )
    return ok(words)


def no_locks(place: Path, options: str) -> str:
    """Why processes of several machines can't lock files in a folder; empty when nothing speaks against it."""
    told = set(options.split(","))
    if told & {"nolock", "local_lock=all", "local_lock=flock", "localflock", "noflock"}:
        return "it is mounted so that other machines don't see its locks"
    probe = unfinished(place / "lockable")
    try:
        with probe.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"files can't be locked there ({error.strerror})"
    finally:
        probe.unlink(missing_ok=True)
    return ""


def videos(config: PipelineConfig) -> Finding:
    """The folder of videos holds some."""
    if not config.videos:
        return ok(f"{config.stories.count} stories will be rendered, for VIDEOS is not set")
    folder = Path(config.videos)
    endings = config.ingest.extensions
    if folder.is_dir() and any(path.suffix.lower() in endings for path in folder.rglob("*")):
        return ok(f"videos are in {folder}")
    why = f"no videos in {folder} ({', '.join(endings)})" if folder.is_dir() else f"no folder {folder} that can be read"
    return Finding("failure", f"{why}", "name a folder of videos with VIDEOS=/path", ("ingest",))


def standing(path: Path) -> Path:
    """The path itself or its nearest ancestor that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def memory_bytes() -> tuple[int, int]:
    """(free, total) memory, or what is left of the container's limit where that is less."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, taken = int(Path(limit).read_text()), int(Path(used).read_text())
        except (OSError, ValueError):  # no such cgroup, or "max"
            continue
        free, total = min(free, max(most - taken, 0)), min(total, most)
    return free, total
