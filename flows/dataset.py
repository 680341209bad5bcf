"""The data half: from videos to curated questions."""

from __future__ import annotations

from prefect import flow

from flows.arguments import main
from flows.stages import Stages
from longrl.config import PipelineConfig


@flow(name="dataset", flow_run_name="{config.recipe} · seed {config.seed}", validate_parameters=False)
def dataset(config: PipelineConfig) -> str:
    """The data half: from videos to curated questions. Returns the path of the last artifact."""
    return Stages(config).until("curate").path


if __name__ == "__main__":
    main(__doc__, dataset)
