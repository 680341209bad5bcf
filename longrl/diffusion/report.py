"""The report of a generator's RL: one HTML page with pictures and clips before and after, and the curves."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from longrl.config import GenerateConfig
from longrl.diffusion.summary import headline, summarise
from longrl.evaluation.charts import Line, line_chart, nice_axis
from longrl.evaluation.figures import mean_line, steps_axis
from longrl.evaluation.page import rendered
from longrl.evaluation.summary import metrics
from longrl.warehouse.artifacts import ArtifactRef, Warehouse, WarehouseError

PROMPTS = 12  # shown; picked by their ids and not by their results
SHOWN = {
    "reward": "mean over the samples of a step",
    "diversity": "mean distance between samples of a prompt, 0 to 1",
    "kl": "to the generator before RL, per denoising step and latent number",
    "gradient_norm": "before clipping",
}


def report(
    config: GenerateConfig, refs: Mapping[str, ArtifactRef], warehouse: Warehouse, run_id: str, minutes: float
) -> Path:
    """Write `reports/<run_id>/index.html` and `summary.json`; returns the page's path."""
    folder = warehouse.root / "reports" / run_id
    summary = summarise(config, dict(refs), run_id, minutes)
    draft = folder.with_name(f".{run_id}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "summary.json").write_text(json.dumps(summary, indent=1))
        (draft / "index.html").write_text(page(config, refs, summary))
        draft.rename(folder)
        link = folder.with_name(f".latest-generation-{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(run_id)
        link.replace(folder.with_name("latest-generation"))
    except OSError as error:
        raise WarehouseError(f"report: cannot write {folder}: {error}; free space or choose WAREHOUSE=/path") from error
    return folder / "index.html"


def page(config: GenerateConfig, refs: Mapping[str, ArtifactRef], summary: dict[str, Any]) -> str:
    """The page as one HTML text."""
    steps = metrics(refs["flowgrpo"])
    return rendered(
        "generation.html.j2",
        room="longrl.diffusion",
        s=summary,
        headline=headline(summary),
        gallery=gallery(refs["compare"]),
        training=[
            (name.replace("_", " "), note, chart) for name, note in SHOWN.items() if (chart := curve(steps, name))
        ],
        settings=json.dumps(config.model_dump(mode="json"), indent=2),
    )


def gallery(drawn: ArtifactRef) -> list[dict[str, Any]]:
    """Prompts with their samples before and after, as data URLs."""
    table = drawn.table()
    shown = []
    for prompt_id in sorted(table["prompt_id"].unique())[:PROMPTS]:
        own = table.filter(pl.col("prompt_id") == prompt_id).sort("sample")
        models = {}
        for model in ("base", "rl"):
            rows = own.filter(pl.col("model") == model).to_dicts()
            models[model] = [{"url": url(drawn.file(row["file"])), "reward": row["reward"]} for row in rows]
        shown.append({"prompt": own["prompt"][0], "models": models})
    return shown


def url(path: Path) -> str:
    """A picture or clip as a data URL."""
    kind = "video/mp4" if path.suffix == ".mp4" else "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def curve(steps: list[dict[str, Any]], name: str) -> Markup | None:
    """What a training logged under a name, with its moving mean; None where it logged too little."""
    points = [(float(row["step"]), float(row[name])) for row in steps if isinstance(row.get(name), int | float)]
    if len(points) < 2:
        return None
    title = name.replace("_", " ")
    y = nice_axis([value for _, value in points], title, zero=False)
    return line_chart([Line(title, "rl", points, faint=True), mean_line(title, "rl", points)], steps_axis(points), y)
