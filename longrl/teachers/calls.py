"""The account of every request to a teacher's server: what was sent, what came back, what it took and cost.

Calls are kept in the stage's item ledger as they are made, so that a killed run's spending is not forgotten, and are
written beside the artifact as `calls.parquet`, failures among them. They tell how the rows were made, not what they
are: the file is no part of the artifact's digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longrl.warehouse.ledger import Ledger, item_key

AT_ONCE = 1000  # items whose calls are in memory while the file is written


@dataclass(frozen=True)
class Call:
    """One request with all its attempts, as it ended. Tokens are as the server counted them, null where it did not."""

    item: str  # clip_id, video_id, or a check's name
    category: str  # caption; temporal, goal, spatial, plot; summary; rewrite; blind; judge
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None  # in the currency of the settings' prices
    seconds: float  # from the first attempt to the end, waiting included
    attempts: int
    images: int
    images_sha256: str  # over all images or videos sent, in order; empty without any
    prompt: str  # the messages as JSON, each image replaced by its sha256
    response: str  # the model's words as they came
    finish: str  # stop, length, ...; error when no answer came
    error: str  # why there is no answer to read; what is wrong in one that was read is its reject's reason


COLUMNS = {name: str(kind).split(" |")[0] for name, kind in Call.__annotations__.items()}


def ignore(call: Call) -> None:
    """Keep no account of a call."""


class CallLog:
    """The calls of a stage's items; `keys` maps each item to its key in the ledger."""

    def __init__(self, ledger: Ledger, keys: Mapping[str, str]):
        self._ledger = ledger
        self._keys = {item: item_key("calls", key) for item, key in keys.items()}

    def add(self, call: Call) -> None:
        """Record a call; durable when this returns."""
        key = self._keys[call.item]
        self._ledger.put(key, [*self._ledger.get_many([key]).get(key, []), asdict(call)])

    def write(self, path: Path) -> dict[str, Any]:
        """Write all calls ever made for the items, in the items' order, and return their totals; no file when none."""
        import polars as pl
        import pyarrow.parquet as pq

        types = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}
        schema = {name: types[kind] for name, kind in COLUMNS.items()}
        keys = list(self._keys.values())
        totals = dict.fromkeys(("requests", "failed", "prompt_tokens", "completion_tokens", "cost"), 0.0)
        file: pq.ParquetWriter | None = None
        with ExitStack() as opened:
            for start in range(0, len(keys), AT_ONCE):
                chunk = keys[start : start + AT_ONCE]
                known = self._ledger.get_many(chunk)
                calls = [call for key in chunk for call in known.get(key, [])]
                if not calls:
                    continue
                table = pl.DataFrame(calls, schema=schema).to_arrow()
                file = file or opened.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
                file.write_table(table)
                for call in calls:
                    totals["requests"] += 1
                    totals["failed"] += bool(call["error"])
                    for name in ("prompt_tokens", "completion_tokens", "cost"):
                        totals[name] += call[name] or 0
        return {name: round(value, 6) if name == "cost" else int(value) for name, value in totals.items()}


def without_pictures(messages: list[dict[str, Any]]) -> tuple[str, int, str]:
    """The messages as JSON with each picture's data replaced by its sha256; how many there are; the sha256 of all."""
    digests: list[str] = []

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        kind = part.get("type")
        if kind not in ("image_url", "video_url"):
            return part
        digests.append(hashlib.sha256(part[kind]["url"].encode()).hexdigest())
        return {"type": kind, "sha256": digests[-1]}

    shown = [
        message | {"content": [plain(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]
    total = hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""
    return json.dumps(shown, ensure_ascii=False), len(digests), total
