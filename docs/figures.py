"""Put the figures of benchmarks/results/*.json into benchmarks/README.md; `make docs` does it, a test checks it.

They stand between `<!-- figures of NAME -->` and `<!-- end -->`; everything else on the page is written by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "benchmarks" / "README.md"
BLOCK = re.compile(r"(<!-- figures of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path = PAGE.parent / "results") -> str:
    """The page with every block filled from its file of results."""
    return BLOCK.sub(lambda block: block[1] + figures(results / f"{block[2]}.json") + block[3], page)


def figures(path: Path) -> str:
    """Machine, rows and bars of one run as Markdown."""
    if not path.exists():
        return "\nNo results are committed yet.\n\n"
    found = json.loads(path.read_text())
    machine = found["machine"]
    where = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    words = f"`{found['command']}` took {found['minutes']:.3g} minutes on {where}, {machine['memory_gib']:.3g} GiB.\n"
    bars = [
        {
            "bar": bar["name"],
            "measured": bar["value"],
            "held to": f"{'at most' if bar['lower_is_better'] else 'at least'} {shown(bar['bar'])}",
            "met": "yes" if bar["met"] else "no",
        }
        for bar in found["bars"]
    ]
    return "\n".join(["", words, table(found["rows"]), table(bars), ""])


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; a row without a column leaves it empty.

    >>> print(table([{"a": 1, "b": 0.12345}, {"a": 2}]))
    | a | b |
    |---|---|
    | 1 | 0.1235 |
    | 2 |  |
    <BLANKLINE>
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    body = [[shown(row[name]) if name in row else "" for name in columns] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in (columns, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:], ""])


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
