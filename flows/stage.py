"""One stage computed anew: its inputs come from the warehouse, its own artifact is replaced.

Later stages recompute on their next run only if the bytes of this stage's artifact changed.
"""

from __future__ import annotations

from prefect import flow

from flows.arguments import config_of, fail_in_words, parser
from flows.stages import ORDER, Stages
from longrl.config import PipelineConfig


@flow(name="stage", flow_run_name="{stage} · {config.recipe}", validate_parameters=False)
def one_stage(config: PipelineConfig, stage: str, refresh: bool = True) -> str:
    """Run the DAG up to `stage`, computing that one anew; returns its artifact's path."""
    return Stages(config, refresh=frozenset({stage}) if refresh else frozenset()).until(stage).path


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--stage", required=True, choices=ORDER)
    options = arguments.parse_args()
    with fail_in_words():
        one_stage(config_of(options), options.stage)
