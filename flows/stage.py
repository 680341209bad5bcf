"""One stage computed anew: its inputs come from the warehouse, its own artifact is replaced.

`make rerun STAGE=caption` runs it from the command line; in the Prefect UI every stage has a deployment of its own,
`stage/caption`, whose form shows the settings of that stage only. Later stages recompute on their next run only if the
bytes of this stage's artifact changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

from prefect import Flow, flow
from pydantic import create_model

from flows.arguments import config_of, fail_in_words, parser
from flows.server import prefect_server
from flows.stages import ORDER, Stages
from longrl.config import PipelineConfig, Settings, load_config
from longrl.doctor.needs import stages as needed
from longrl.errors import LongrlError
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.lineage import LATEST, lineage

BY_VIDEO = ("caption", "reason")  # stages that can do a single video anew
SHARED = {
    "ingest": ("videos",),
    "curate": ("imported",),
    **dict.fromkeys(("pretrain", "sft", "difficulty", "rl", "evaluate"), ("frames",)),
}

FORM = """Compute the stage {stage} anew, from artifacts that are there.

Args:
    upstream: Artifact to start from, as stage/key. `latest`: the newest, with what it was made from. Empty: what the
        recipe leads to, computed where it is missing.
    refresh: Compute the stage even if its artifact is there.
    redo: What to compute anew: every item, or only those that were rejected, such as by a busy server.
    video: A video_id: compute this video anew, keep all others. Empty: every video.
"""
Redo = Literal["all", "rejects"]


def run_stage(
    config: PipelineConfig,
    stage: str,
    upstream: str = LATEST,
    refresh: bool = True,
    redo: Redo = "all",
    video: str = "",
) -> str:
    """Compute one stage from upstream artifacts and return its artifact's path; what is missing before it is computed.

    Raises `LongrlError` for a video or an upstream artifact that does not exist.
    """
    if video and stage not in BY_VIDEO:
        raise LongrlError(f"{stage} is computed as a whole; a single video is for {' and '.join(BY_VIDEO)}")
    warehouse = Warehouse(config.warehouse, frozenset({stage} if refresh else ()), redo == "all", video)
    given = lineage(warehouse, [name for name in needed(config, stage) if name != stage], upstream) if upstream else {}
    if video:
        videos = given.get("ingest") or computed(config, warehouse, given, "ingest")
        if video not in videos.table()["video_id"]:
            raise LongrlError(f"there is no video {video!r}; the catalog's table `videos` lists them")
    return computed(config, warehouse, given, stage).path


def computed(config: PipelineConfig, warehouse: Warehouse, given: Mapping[str, ArtifactRef], stage: str) -> ArtifactRef:
    """The artifact of one stage, from those that are given."""
    with Stages(config, warehouse, given) as stages:
        return stages.until(stage)


def form(stage: str) -> type[Settings]:
    """The part of `PipelineConfig` that a stage run alone depends on."""
    names = ("recipe", "warehouse", "seed", stage, *SHARED.get(stage, ()))
    fields: Any = {
        name: (PipelineConfig.model_fields[name].annotation, PipelineConfig.model_fields[name]) for name in names
    }
    return create_model(
        f"{stage.title()}Stage",
        __base__=Settings,
        __doc__=f"Settings of {stage}; other stages have the recipe's.",
        **fields,
    )


def stage_flow(stage: str) -> Flow[..., str]:
    """The flow of one stage's deployment; its parameters are in the form's order."""

    def alone(*, upstream: str = LATEST, refresh: bool = True, redo: Redo = "all", config: Any) -> str:
        return run_stage(complete(config), stage, upstream, refresh, redo)

    def by_video(
        *, upstream: str = LATEST, refresh: bool = True, redo: Redo = "all", video: str = "", config: Any
    ) -> str:
        return run_stage(complete(config), stage, upstream, refresh, redo, video)

    run: Any = by_video if stage in BY_VIDEO else alone
    run.__annotations__["config"] = form(stage)
    run.__doc__ = FORM.format(stage=stage)
    return flow(name="stage", flow_run_name=f"{stage} · {{config.recipe}}")(run)


def complete(settings: Settings) -> PipelineConfig:
    """The settings of a stage's form, with those of the recipe for all other stages."""
    given: Any = {name: getattr(settings, name) for name in type(settings).model_fields}
    return load_config(given["recipe"]).model_copy(update=given)


deployed = SimpleNamespace(**{stage: stage_flow(stage) for stage in ORDER})


@flow(name="stage", flow_run_name="{stage} · {config.recipe}")
def one_stage(config: PipelineConfig, stage: str, upstream: str, redo: Redo, video: str) -> str:
    """The same with every setting from the command line."""
    return run_stage(config, stage, upstream, True, redo, video)


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--stage", required=True, choices=ORDER)
    arguments.add_argument("--redo", default="all", choices=("all", "rejects"))
    arguments.add_argument("--video", default="", help="compute this video anew, keep all others (caption, reason)")
    arguments.add_argument(
        "--upstream",
        help="artifact to start from, as stage/key; `latest` (the default): the newest. Where --videos or --dataset "
        "name other data: empty, that is what the settings lead to",
    )
    options = arguments.parse_args()
    with fail_in_words():
        config = config_of(options)
        other_data = config.videos or config.imported.path
        upstream = options.upstream if options.upstream is not None else "" if other_data else LATEST
        with prefect_server():
            one_stage(config, options.stage, upstream, options.redo, options.video)
