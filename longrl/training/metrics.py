"""`metrics.jsonl`: one line per step, written by rank 0, and cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends steps to `folder/metrics.jsonl`; steps after `resumed` are dropped, for they will be taken again."""

    def __init__(self, folder: Path, resumed: int):
        path = folder / "metrics.jsonl"
        kept = []
        if path.exists() and resumed:
            for line in path.read_text().splitlines():
                try:
                    kept += [line] if json.loads(line)["step"] <= resumed else []
                except json.JSONDecodeError:  # the line a killed run was writing
                    break
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a", buffering=1)

    def write(self, **values: Any) -> None:
        """Add one line; floats are kept to 6 significant digits."""
        self._file.write(json.dumps(short(values)) + "\n")


def short(value: Any) -> Any:
    """The same value with floats rounded to 6 significant digits, and what isn't finite as null.

    >>> short({"a": 0.123456789, "b": [float("nan")]})
    {'a': 0.123457, 'b': [None]}
    """
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else None
    return value
