"""Up to the evaluation of base, SFT and RL."""

from __future__ import annotations

from prefect import flow

from flows.arguments import main
from flows.stages import Stages
from longrl.config import PipelineConfig


@flow(name="evaluate", flow_run_name="{config.recipe} · seed {config.seed}")
def evaluate(config: PipelineConfig) -> str:
    """Up to the evaluation of base, SFT and RL. Returns the path of the last artifact."""
    with Stages(config) as stages:
        return stages.until("evaluate").path


if __name__ == "__main__":
    main(__doc__, evaluate)
