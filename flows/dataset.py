"""The data half: from videos to curated questions."""

from __future__ import annotations

from prefect import flow

from flows.arguments import main
from flows.stages import Stages
from longrl.config import PipelineConfig
from tasks.keys import export_key


@flow(name="dataset", flow_run_name="{config.recipe} · seed {config.seed}")
def dataset(config: PipelineConfig) -> str:
    """The data half: from videos to curated questions. Returns the path of the last artifact."""
    with Stages(config) as stages:
        stages.until("curate")
        stages.rate_pretrained()
    return stages.refs.get("difficulty", stages.refs["curate"]).path


@flow(name="estimate", flow_run_name="{config.recipe} · seed {config.seed}")
def estimate(config: PipelineConfig) -> str:
    """What captions and questions will cost; cuts the clips, which is free, and asks no teacher for anything paid."""
    from longrl.data.estimate import estimate as run

    with Stages(config) as stages:
        stages.until("segment")
    export_key(config.caption.server)
    export_key(config.reason.server)
    text = run(config, stages.refs["ingest"], stages.refs["segment"], stages.warehouse)
    print(text)
    return text


if __name__ == "__main__":
    main(__doc__, dataset, estimate)
