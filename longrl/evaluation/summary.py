"""A run in one JSON document and one table, computed from its artifacts and nothing else.

Accuracy is greedy at the headline frame budget over *every* held-out question, unless a name says otherwise. Each
figure has its standard error, clustered by video, under the same name with `_se`. What was not measured is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from longrl.config import AnyCategory, PipelineConfig
from longrl.evaluation.baselines import chance
from longrl.evaluation.statistics import Estimate, accuracy, difference
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef

MODELS = ("base", "sft", "rl")
NAMES = {"base": "Base", "sft": "SFT", "rl": "RL"}


def summarize(config: PipelineConfig, refs: Mapping[str, ArtifactRef], run_id: str, minutes: float) -> dict[str, Any]:
    """The content of `summary.json`. `refs` are the run's artifacts by stage name, in the order they were made."""
    samples = table_of(refs, "evaluate")
    dataset = table_of(refs, "curate")
    budget = config.frames.budget
    headline = greedy(samples, budget)
    held_out = dataset.filter((pl.col("split") == "eval") & (pl.col("kind") == "choice"))
    final = last_model(samples)
    overall = {model: judged(headline, model) for model in MODELS}
    sampled = {model: judged(samples.filter(pl.col("mode") == "sampled"), model) for model in MODELS[1:]}
    categories = [category for category in AnyCategory if category in set(held_out["category"])]
    by_category = {
        category: {model: judged(headline.filter(pl.col("category") == category), model) for model in MODELS}
        for category in categories
    }
    budgets = sorted(set(samples["frames"])) if samples.height else []
    by_frames = {model: {str(n): judged(greedy(samples, n), model) for n in budgets} for model in MODELS}
    control = judged(samples.filter(pl.col("mode") == "shuffled_video"), final)
    form = {model: {str(n): share_formed(greedy(samples, n), model) for n in budgets} for model in MODELS}
    return {
        "run_id": run_id,
        "recipe": config.recipe,
        "seed": config.seed,
        "minutes": round(minutes, 2),
        "videos": {"ok": count(refs, "ingest"), "quarantined": count(refs, "ingest", "rejects")},
        "clips": count(refs, "segment"),
        "captions": count(refs, "caption"),
        "questions": {
            "written": count(refs, "reason"),
            "accepted": count(refs, "curate"),
            "rejected": reasons(refs.get("curate")),
        },
        "splits": {split: dataset.filter(pl.col("split") == split).height for split in ("sft", "rl", "eval")},
        "frames": budget,
        "final_model": final or None,
        "accuracy": {"chance": chance(held_out["options"].list.len().to_list()), **means(overall)},
        "accuracy_se": errors(overall),
        "accuracy_95": {model: [value.low, value.high] if value else None for model, value in overall.items()},
        "sampled_accuracy": means(sampled),
        "sampled_accuracy_se": errors(sampled),
        "gains": gains(headline, samples),
        "by_category": {
            name: {"questions": held_out.filter(pl.col("category") == name).height, **means(row)}
            for name, row in by_category.items()
        },
        "by_category_se": {name: errors(row) for name, row in by_category.items()},
        "by_frames": means(by_frames.get(final, {})),
        "by_frames_se": errors(by_frames.get(final, {})),
        "by_frames_models": {model: means(row) for model, row in by_frames.items()},
        "by_frames_models_se": {model: errors(row) for model, row in by_frames.items()},
        "format": form.get(final, {}),
        "format_models": form,
        "unparsable": {model: unparsable(headline, model) for model in MODELS},
        "shuffled_video": {
            "accuracy": control.mean if control else None,
            "se": control.se if control else None,
            "low": control.low if control else None,
            "high": control.high if control else None,
        },
        "evaluation_errors": int(headline["error"].is_not_null().sum()),
        "rl_ended_early": refs["rl"].facts().get("ended_early") or None if "rl" in refs else None,
        "reward": [step["reward"] for step in metrics(refs.get("rl")) if step.get("reward") is not None],
        "stages": [
            {
                "name": name,
                "key": ref.key,
                "cached": ref.cached,
                "seconds": round(ref.seconds, 2),
                "rows": ref.rows,
                "rejects": ref.rejects,
            }
            for name, ref in refs.items()
        ],
    }


def results_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy in percent ± standard error by category, for the end of a run."""
    title = f"Held-out accuracy, % ± standard error\n{summary['splits']['eval']} questions, {summary['frames']} frames"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("")
    for model in MODELS:
        table.add_column(NAMES[model], justify="right")
    for name, row in summary["by_category"].items():
        table.add_row(f"{name} ({row['questions']})", *percents(row, summary["by_category_se"][name]))
    table.add_section()
    table.add_row("all, greedy", *percents(summary["accuracy"], summary["accuracy_se"]), style="bold")
    table.add_row("all, sampled", *percents(summary["sampled_accuracy"], summary["sampled_accuracy_se"]))
    guess = summary["accuracy"]["chance"]
    lines = [] if guess is None else [f"chance: {percent(guess)}"]
    lines += [gain["text"] for gain in summary["gains"].values() if gain]
    if summary["rl_ended_early"]:
        lines.append(f"RL ended early: {summary['rl_ended_early']}")
    table.caption = "\n".join(lines)
    return table


def print_results(page: Path) -> None:
    """Print the results table of a finished report, and where its page is."""
    console = Console(soft_wrap=True)
    console.print(results_table(json.loads(page.with_name("summary.json").read_text())))
    console.print(f"report: {page}", highlight=False)


def percents(means: Mapping[str, Any], ses: Mapping[str, Any]) -> list[str]:
    return [percent(means.get(model), ses.get(model)) for model in MODELS]


def percent(mean: float | None, se: float | None = None) -> str:
    """A share as a person reads it.

    >>> percent(0.8333, 0.0211), percent(0.5), percent(None)
    ('83.3 ± 2.1', '50.0', '–')
    """
    if mean is None:
        return "–"
    return f"{100 * mean:.1f}" + (f" ± {100 * se:.1f}" if se is not None else "")


def points(estimate: Estimate) -> str:
    """A difference in percentage points with its standard error, e.g. "+8.3 ± 2.1 points"."""
    se = f" ± {100 * estimate.se:.1f}" if estimate.se is not None else ""
    return f"{100 * estimate.mean:+.1f}{se} points".replace("-", "−")


def table_of(refs: Mapping[str, ArtifactRef], stage: str) -> pl.DataFrame:
    """The stage's table, or one without rows when the run has no such stage."""
    return refs[stage].table() if stage in refs else schemas.empty(stage)


def count(refs: Mapping[str, ArtifactRef], stage: str, what: str = "rows") -> int:
    return int(getattr(refs[stage], what)) if stage in refs else 0


def reasons(ref: ArtifactRef | None) -> dict[str, int]:
    """How many items each rule of a stage dropped, most first."""
    if ref is None or not (Path(ref.path) / "rejects.parquet").exists():
        return {}
    counts = ref.rejected().group_by("rule").len().sort(["len", "rule"], descending=[True, False])
    return dict(counts.iter_rows())


def metrics(ref: ArtifactRef | None) -> list[dict[str, Any]]:
    """The steps of a training stage, from its `metrics.jsonl`; empty when there is none."""
    path = Path(ref.path) / "metrics.jsonl" if ref else None
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def greedy(samples: pl.DataFrame, frames: int) -> pl.DataFrame:
    return samples.filter((pl.col("mode") == "greedy") & (pl.col("frames") == frames))


def judged(samples: pl.DataFrame, model: str) -> Estimate | None:
    """Accuracy of one model over these rows, clustered by video."""
    rows = of(samples, model)
    return accuracy(rows["correct"].cast(pl.Float64).to_list(), rows["video_id"].to_list())


def share_formed(samples: pl.DataFrame, model: str) -> float | None:
    """Share of responses with the think-answer form."""
    rows = of(samples, model)
    return float(rows["well_formed"].cast(pl.Float64).mean()) if rows.height else None  # type: ignore[arg-type]


def unparsable(samples: pl.DataFrame, model: str) -> int | None:
    """Questions from whose response no option could be read; they count as wrong."""
    rows = of(samples, model)
    return int(rows["extracted"].is_null().sum()) if rows.height else None


def last_model(samples: pl.DataFrame) -> str:
    """The most trained model that was evaluated, "" if none."""
    return next((model for model in reversed(MODELS) if model in set(samples["model"])), "")


def gains(headline: pl.DataFrame, samples: pl.DataFrame) -> dict[str, dict[str, Any] | None]:
    """Paired differences in shares, each with a sentence a person can quote; None where one side is missing."""
    sampled = samples.filter(pl.col("mode") == "sampled")
    final = last_model(samples)
    wanted = {
        "sft_minus_base": (of(headline, "base"), of(headline, "sft"), "SFT − Base, greedy"),
        "rl_minus_sft": (of(headline, "sft"), of(headline, "rl"), "RL − SFT, greedy"),
        "rl_minus_sft_sampled": (of(sampled, "sft"), of(sampled, "rl"), "RL − SFT, sampled"),
        "right_minus_shuffled_video": (
            of(samples.filter(pl.col("mode") == "shuffled_video"), final),
            of(headline, final),
            f"{NAMES.get(final, '')} with the right video − with another's",
        ),
    }
    result: dict[str, dict[str, Any] | None] = {}
    for name, (first, second, words) in wanted.items():
        gain = difference(first, second)
        result[name] = {**asdict(gain), "text": f"{words}: {points(gain)}"} if gain else None
    return result


def of(samples: pl.DataFrame, model: str) -> pl.DataFrame:
    return samples.filter(pl.col("model") == model)


def means(estimates: Mapping[str, Estimate | None]) -> dict[str, float | None]:
    return {name: estimate.mean if estimate else None for name, estimate in estimates.items()}


def errors(estimates: Mapping[str, Estimate | None]) -> dict[str, float | None]:
    return {name: estimate.se if estimate else None for name, estimate in estimates.items()}
