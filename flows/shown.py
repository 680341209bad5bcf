"""What a flow run shows in the Prefect UI: a name and tags that tell it from others, its results, its report."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from longrl.config import PipelineConfig
from longrl.warehouse.artifacts import ArtifactRef

VERSION = " · dataset "


def tags(config: PipelineConfig) -> set[str]:
    """What one looks for in a list of runs."""
    teachers = {f"teacher: {section.teacher}" for section in (config.caption, config.reason)}
    source = "imported" if config.imported.path else "videos" if config.videos else "stories"
    return {f"recipe: {config.recipe}", source, f"runner: {config.runner}", *teachers}


def label(config: PipelineConfig, dataset: ArtifactRef | None = None) -> None:
    """Give the current flow run its tags, and once it is known the version of its dataset, a key of `curate`.

    Outside of a flow run nothing happens. A run's own tags, such as a deployment's, stay.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    name = f"{run.name.partition(VERSION)[0]}{VERSION}{dataset.key[:8]}" if dataset else None
    tag(tags(config), name)


def tag(words: set[str], name: str | None = None) -> None:
    """Add tags to the current flow run, and rename it where a name is given; outside of a flow run nothing happens."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, name=name, tags=sorted({*run.tags, *words}))


def show_results(page: Path) -> None:
    """The table of accuracies as the artifact `results`, and a link to the report's page as `report`."""
    from rich.console import Console

    from longrl.evaluation.summary import results_table

    text = StringIO()
    Console(file=text, width=100).print(results_table(json.loads(page.with_name("summary.json").read_text())))
    markdown = f"```\n{text.getvalue().rstrip()}\n```\n\nThe report: [{page}]({page.as_uri()})\n"
    create_markdown_artifact(markdown, key="results", description="Held-out accuracy of base, SFT and RL")
    create_link_artifact(page.as_uri(), link_text=f"report {page.parent.name}", key="report", description=str(page))
