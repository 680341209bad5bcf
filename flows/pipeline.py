"""The whole DAG in one flow: `python -m flows.pipeline`, `make pipeline`, or *Run* in the Prefect UI."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from pathlib import Path

from prefect import flow

from flows.arguments import main
from flows.shown import show_results
from flows.stages import Stages
from longrl.config import PipelineConfig


@flow(name="pipeline", flow_run_name="{config.recipe} · seed {config.seed}")
def pipeline(config: PipelineConfig) -> Path:
    """Videos in, a reasoning model and its report out; returns the report's path."""
    from longrl.evaluation.report import report
    from longrl.evaluation.summary import print_results

    started = time.monotonic()
    run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{config.recipe}-{secrets.token_hex(2)}"
    with Stages(config) as stages:
        stages.until("evaluate")
    page = report(config, stages.refs, stages.warehouse, run_id, minutes=(time.monotonic() - started) / 60)
    show_results(page)
    print_results(page)
    return page


if __name__ == "__main__":
    main(__doc__, pipeline)
