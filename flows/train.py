"""Up to the RL checkpoint."""

from __future__ import annotations

from prefect import flow

from flows.arguments import main
from flows.stages import Stages
from longrl.config import PipelineConfig


@flow(name="train", flow_run_name="{config.recipe} · seed {config.seed}")
def train(config: PipelineConfig) -> str:
    """Up to the RL checkpoint. Returns the path of the last artifact."""
    with Stages(config) as stages:
        return stages.until("rl").path


if __name__ == "__main__":
    main(__doc__, train)
