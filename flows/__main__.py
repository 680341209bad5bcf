"""`python -m flows pipeline --recipe tiny`, as `make` runs a flow: as `python -m flows.pipeline`, a few seconds sooner.

The Prefect server that a flow needs and all that the flow imports take about as long as each other to load; here they
load at the same time.
"""

from __future__ import annotations

import runpy
import sys

from flows.server import begin

NO_RUN = {"-h", "--help", "--dry-run"}


def main() -> None:
    """Run the module of this package that the first argument names."""
    name = sys.argv.pop(1)
    if not NO_RUN & set(sys.argv):
        begin()
    runpy.run_module(f"flows.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
