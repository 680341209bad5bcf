"""The report: `warehouse/reports/<run_id>/{index.html, summary.json}`, and `latest` beside it pointing to the newest.

One page that opens from the disk, without a server or a network: styles, charts and pictures are inside it, and its
content security policy forbids everything else. All texts from videos, teachers and models are escaped. Differences are
stated as measured, with their standard errors; where something was not measured, the page says so.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from longrl.config import PipelineConfig
from longrl.evaluation import figures
from longrl.evaluation.gallery import VIDEOS, films
from longrl.evaluation.summary import MODELS, NAMES, metrics, percent, reasons, summarize
from longrl.video.decode import FrameCache
from longrl.warehouse.artifacts import ArtifactRef, Warehouse, WarehouseError


def report(
    config: PipelineConfig, refs: Mapping[str, ArtifactRef], warehouse: Warehouse, run_id: str, minutes: float
) -> Path:
    """Write the run's page and summary, point `latest` at them, and return the page's path.

    `refs` are the run's artifacts by stage name in the order they were made; any may be missing. A report of the same
    run id is replaced. Raises `WarehouseError` when the folder cannot be written.
    """
    summary = summarize(config, refs, run_id, minutes)
    page = render(config, refs, summary, FrameCache(warehouse.cache("frames")))
    folder = warehouse.root / "reports" / run_id
    draft = folder.with_name(f".draft-{run_id}-{os.getpid()}")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "index.html").write_text(page, encoding="utf-8")
        (draft / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
        link = folder.with_name(f".latest-{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(run_id)
        link.replace(folder.with_name("latest"))
    except OSError as error:
        raise WarehouseError(f"report: cannot write {folder}: {error}; free space or choose WAREHOUSE=/path") from error
    return folder / "index.html"


def render(config: PipelineConfig, refs: Mapping[str, ArtifactRef], summary: dict[str, Any], frames: FrameCache) -> str:
    """The page as one HTML text."""
    environment = Environment(
        loader=PackageLoader("longrl.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, clock=clock, seconds=seconds)
    shown = films(refs, frames, config.frames.budget, VIDEOS)
    return environment.get_template("report.html.j2").render(
        s=summary,
        models=[(model, NAMES[model]) for model in MODELS],
        headline=headline(summary),
        control=control(summary),
        strip=strip(summary),
        by_category=figures.category_chart(summary),
        by_frames=figures.frames_chart(summary),
        by_format=figures.format_chart(summary),
        training=figures.training_charts(refs),
        rejects=[(name, rule, n) for name, ref in refs.items() for rule, n in reasons(ref).items()],
        films=shown,
        steps={stage: len(metrics(refs[stage])) for stage in ("sft", "rl") if stage in refs},
        units=UNITS,
        film_total=len(held_out_videos(refs)),
        settings=json.dumps(config.model_dump(mode="json"), indent=2),
    )


def headline(summary: Mapping[str, Any]) -> str:
    """What the run showed, in one sentence that claims no more than the errors allow."""
    accuracy, splits, gain = summary["accuracy"], summary["splits"], summary["gains"]["rl_minus_sft"]
    if not splits["eval"]:
        return "No question was held out, so there is no accuracy to report."
    if summary["final_model"] is None:
        return f"{splits['eval']} questions are held out; no model has answered them yet."
    parts = [f"{100 * accuracy[m]:.0f}% {words}" for m, words in PHRASES.items() if accuracy[m] is not None]
    text = f"On {splits['eval']} held-out questions: {join(parts)}."
    if gain is None:
        return text
    if gain["se"] is None:
        return f"{text} With one video there is no telling a change by RL from chance."
    if gain["low"] <= 0 <= gain["high"]:
        return f"{text} The change by RL is within its error."
    return f"{text} RL {'raised' if gain['mean'] > 0 else 'lowered'} the accuracy."


UNITS = {
    "ingest": "videos",
    "segment": "clips",
    "caption": "captions",
    "reason": "questions",
    "curate": "questions",
    "evaluate": "answers",
}
PHRASES = {"base": "right before training", "sft": "after SFT", "rl": "after RL"}


def join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def control(summary: Mapping[str, Any]) -> str:
    """What the control with another video's embeddings says."""
    value, se = summary["shuffled_video"]["accuracy"], summary["shuffled_video"]["se"]
    guess = summary["accuracy"]["chance"]
    if value is None or guess is None:
        return ""
    name, gain = NAMES[summary["final_model"]], summary["gains"]["right_minus_shuffled_video"]
    text = f"Shown another video instead, {name} is right {percent(value, se)}% of the time (chance {percent(guess)}%)"
    if se is None or gain is None or gain["se"] is None:
        return f"{text}: too few videos to judge."
    if gain["low"] <= 0:
        return f"{text}; the right video does not help beyond the error, so nothing shows that it is used."
    if summary["shuffled_video"]["low"] > guess:
        return f"{text}: more than chance, so part of its answers comes from the wording alone."
    return f"{text}: no better than chance, so it answers from the video."


def strip(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Dots with 95% spans on one 0–100 scale, in percent of its width."""
    rows = []
    for model in MODELS:
        mean, span = summary["accuracy"][model], summary["accuracy_95"][model]
        if mean is not None:
            low, high = span
            rows.append({"model": model, "at": 100 * mean, "low": 100 * low, "span": 100 * (high - low)})
    return rows


def held_out_videos(refs: Mapping[str, ArtifactRef]) -> set[str]:
    if "curate" not in refs:
        return set()
    table = refs["curate"].table()
    return set(table.filter(table["split"] == "eval")["video_id"])


def clock(value: float, duration: float) -> str:
    """A moment of a film: 75.2 as "1:15", or "1.5 s" where the whole film is short.

    >>> clock(75.2, 120.0), clock(1.52, 3.0)
    ('1:15', '1.5 s')
    """
    return f"{value:.1f} s" if duration < 10 else f"{int(value) // 60}:{int(value) % 60:02d}"


def seconds(value: float) -> str:
    """A duration a person reads at a glance, 75.2 as "1 min 15 s"."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60} s"
