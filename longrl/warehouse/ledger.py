"""The item ledger: finished items of a stage, so that none is computed twice.

An item's key says what it was made from (the clip, the teacher's settings, the code's version), so an item survives a
killed run *and* a run over more videos. SQLite: an item is there or not, several processes may write; in WAL mode on a
disk of this machine, with a rollback journal on a file system that others may share (see `sharing`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import filelock

from longrl.warehouse.sharing import is_local


def item_key(*parts: Any) -> str:
    """Hash of everything an item was made from; parts must be JSON-serialisable."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Ledger:
    """A durable map from item key to a JSON value.

    With `forget` only what was recorded since it was opened is found, so every item is computed anew.
    """

    def __init__(self, path: Path, forget: bool = False):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The first connection turns WAL on, the last one off; SQLite does not wait for another doing so just now.
        self._doors = filelock.FileLock(path.with_suffix(".lock"))
        with self._doors:
            self._connection = sqlite3.connect(path, timeout=120.0, isolation_level=None, check_same_thread=False)
            local = is_local(path.parent)
            self._connection.execute(f"PRAGMA journal_mode={'WAL' if local else 'TRUNCATE'}")
            self._connection.execute(f"PRAGMA synchronous={'NORMAL' if local else 'FULL'}")
            self._connection.execute("CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            newest = self._connection.execute("SELECT coalesce(max(rowid), 0) FROM items").fetchone()[0]
        self._after = newest if forget else 0  # a replaced item gets a new rowid

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The finished ones among `keys`, with their values."""
        found: dict[str, Any] = {}
        keys = list(keys)
        for start in range(0, len(keys), 500):
            chunk = keys[start : start + 500]
            query = f"SELECT key, value FROM items WHERE rowid > ? AND key IN ({','.join('?' * len(chunk))})"
            rows = self._connection.execute(query, [self._after, *chunk])
            found.update((key, json.loads(value)) for key, value in rows)
        return found

    def put(self, key: str, value: Any) -> None:
        """Record one finished item; durable when this returns."""
        self._connection.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", (key, json.dumps(value)))

    def close(self) -> None:
        with self._doors:
            self._connection.close()
