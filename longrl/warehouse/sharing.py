"""What a folder needs that processes of several machines share.

1. Process ids repeat from machine to machine and from container to container, so what is being written has a name by
   chance (`unfinished`), and appears by rename.
2. Locks are flock(2). Over NFS they are byte-range locks, which other machines see if the mount carries them (NFS 4
   does), and which need a file opened for reading where they are shared, for writing where they are exclusive.
3. SQLite's write-ahead log lives in memory that machines can't share (https://sqlite.org/wal.html), so the ledger keeps
   a rollback journal wherever the file system is not known to be this machine's own (`is_local`).
"""

from __future__ import annotations

import secrets
from pathlib import Path

LOCAL = {"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}


def unfinished(path: Path) -> Path:
    """A name beside `path` that nobody else writes to, on whatever machine; it begins with a dot.

    >>> name = unfinished(Path("corpus/story.mp4"))
    >>> name.parent, name.name[:11], name == unfinished(Path("corpus/story.mp4"))
    (PosixPath('corpus'), '.story.mp4.', False)
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def mounted(path: Path) -> tuple[str, str]:
    """Kind and options of the file system below a path, such as ("nfs4", "rw,vers=4.2,local_lock=none").

    ("unknown", "") where the kernel doesn't tell.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return "unknown", ""
    inside = []
    for index, line in enumerate(lines):
        place, told = line.split()[4], line.split(" - ")[1].split()
        if path.resolve().is_relative_to(place):
            inside.append((len(place), index, told[0], told[-1]))
    return max(inside)[2:] if inside else ("unknown", "")


def is_local(path: Path) -> bool:
    """Whether only this machine can write below a path; unknown kinds of file system are taken to be shared."""
    return mounted(path)[0] in LOCAL
