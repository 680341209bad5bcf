"""One stage computed anew: its inputs come from the warehouse, its own artifact is replaced.

With `redo` "rejects" its finished items are kept and only what was rejected is tried again, such as clips that a busy
server did not caption.

Later stages recompute on their next run only if the bytes of this stage's artifact changed.
"""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.arguments import config_of, fail_in_words, parser
from flows.runner import on_runner
from flows.stages import ORDER, Stages
from longrl.config import PipelineConfig


@flow(name="stage", flow_run_name="{stage} · {config.recipe}", validate_parameters=False)
def one_stage(config: PipelineConfig, stage: str, redo: Literal["all", "rejects"] = "all") -> str:
    """Run the DAG up to `stage`, computing that one anew; returns its artifact's path."""
    return Stages(config, refresh=frozenset({stage}), forget=redo == "all").until(stage).path


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--stage", required=True, choices=ORDER)
    arguments.add_argument("--redo", default="all", choices=("all", "rejects"))
    options = arguments.parse_args()
    with fail_in_words():
        config = config_of(options)
        with on_runner(one_stage, config) as run:
            run(config, options.stage, options.redo)
