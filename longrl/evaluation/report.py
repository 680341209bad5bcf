"""The report: `warehouse/reports/<run_id>/{index.html, summary.json}`, and `latest` beside it pointing to the newest.

Differences are stated as measured, with their standard errors; where something was not measured, the page says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrl.config import PipelineConfig
from longrl.evaluation import browser, figures
from longrl.evaluation.clips import Clips
from longrl.evaluation.gallery import VIDEOS, held_out
from longrl.evaluation.page import rendered
from longrl.evaluation.summary import MODELS, NAMES, metrics, percent, reasons, summarize
from longrl.video.decode import FrameCache
from longrl.warehouse.artifacts import ArtifactRef, Warehouse, WarehouseError
from longrl.warehouse.sharing import unfinished


def report(
    config: PipelineConfig, refs: Mapping[str, ArtifactRef], warehouse: Warehouse, run_id: str, minutes: float
) -> Path:
    """Write the run's page and summary, point `latest` at them, and return the page's path.

    `refs` are the run's artifacts by stage name in the order they were made; any may be missing. A report of the same
    run id is replaced. Raises `WarehouseError` when the folder cannot be written.
    """
    summary = summarize(config, refs, run_id, minutes)
    folder = warehouse.root / "reports" / run_id
    page = render(config, refs, summary, warehouse, folder)
    draft = unfinished(folder)
    try:
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "index.html").write_text(page, encoding="utf-8")
        (draft / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
        link = unfinished(folder.with_name("latest"))
        link.symlink_to(run_id)
        link.replace(folder.with_name("latest"))
    except OSError as error:
        raise WarehouseError(f"report: cannot write {folder}: {error}; free space or choose WAREHOUSE=/path") from error
    return folder / "index.html"


def render(
    config: PipelineConfig,
    refs: Mapping[str, ArtifactRef],
    summary: dict[str, Any],
    warehouse: Warehouse,
    folder: Path,
) -> str:
    """The page as one HTML text; `folder` is where it will lie."""
    asked = held_out(refs, FrameCache(warehouse.cache("frames")), config.frames.budget)
    return rendered(
        "report.html.j2",
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
        questions=browser.document([asked], Clips(warehouse.cache("clips")), folder) if asked.questions else None,
        pictured=VIDEOS if len(asked.films) > VIDEOS else 0,
        steps={stage: len(metrics(refs[stage])) for stage in ("sft", "rl") if stage in refs},
        units=UNITS,
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
