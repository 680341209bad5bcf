"""What RL did to a generator, in figures: rewards on held-out prompts before and after, and the samples' diversity."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from longrl.config import GenerateConfig
from longrl.diffusion.rewards import told
from longrl.evaluation.statistics import clustered_mean, t95
from longrl.warehouse.artifacts import ArtifactRef


def summarise(config: GenerateConfig, refs: dict[str, ArtifactRef], run_id: str, minutes: float) -> dict[str, Any]:
    """Everything the report says, as JSON values. Means are over all samples, errors clustered by prompt."""
    drawn = refs["compare"].table()
    rows = drawn.with_columns(parts=pl.col("rewards"))
    names = list(json.loads(drawn["rewards"][0]))
    columns: dict[str, pl.Series] = {"reward": drawn["reward"], "diversity": drawn["diversity"]}
    for name in names:
        columns[name] = pl.Series([json.loads(text)[name] for text in drawn["rewards"]])
    figures = {name: before_after(rows, values) for name, values in columns.items()}
    return {
        "run_id": run_id,
        "recipe": config.recipe,
        "seed": config.seed,
        "minutes": minutes,
        "family": refs["generator"].facts()["family"],
        "mixture": told(config.rl.rewards),
        "prompts": {
            "train": refs["prompts"].table().filter(pl.col("split") == "train").height,
            "held_out": drawn["prompt_id"].n_unique(),
            "rejected": refs["prompts"].rejects,
        },
        "samples": int(drawn["sample"].n_unique()),
        "figures": figures,
        "stages": [
            {"name": ref.stage, "key": ref.key, "rows": ref.rows, "rejects": ref.rejects, "seconds": ref.seconds,
             "cached": ref.cached} for ref in refs.values()
        ],
    }  # fmt: skip


def before_after(rows: pl.DataFrame, values: pl.Series) -> dict[str, float | None]:
    """Means of base and RL, and of the paired difference of samples with the same seed, with its 95% interval."""
    frame = (
        rows.select("model", "prompt_id", "sample")
        .with_columns(value=values)
        .drop_nulls()
        .filter(pl.col("value").is_finite())
    )
    base, rl = (frame.filter(pl.col("model") == model).drop("model") for model in ("base", "rl"))
    pairs = base.join(rl, on=["prompt_id", "sample"], suffix="_rl")
    if pairs.is_empty():
        return {"base": None, "rl": None, "gain": None, "se": None, "low": None, "high": None}
    gains = (pairs["value_rl"] - pairs["value"]).to_list()
    mean, se, groups = clustered_mean(gains, pairs["prompt_id"].to_list())
    reach = t95(groups - 1) * se if se is not None else None
    return {
        "base": float(pairs["value"].mean()),  # type: ignore[arg-type]
        "rl": float(pairs["value_rl"].mean()),  # type: ignore[arg-type]
        "gain": mean,
        "se": se,
        "low": None if reach is None else mean - reach,
        "high": None if reach is None else mean + reach,
    }


def headline(summary: dict[str, Any]) -> str:
    """What the run showed, in one sentence that claims no more than the errors allow."""
    one = summary["figures"]["reward"]
    count = summary["prompts"]["held_out"]
    if one["gain"] is None:
        return "No held-out sample has a reward, so there is nothing to compare."
    text = f"On {count} held-out prompts the reward is {one['base']:.3f} before and {one['rl']:.3f} after RL"
    if one["low"] is None:
        return f"{text}; one prompt can't tell a change from chance."
    if one["low"] <= 0 <= one["high"]:
        return f"{text}: within its error."
    return f"{text}: RL {'raised' if one['gain'] > 0 else 'lowered'} it by {abs(one['gain']):.3f}."


def lines(summary: dict[str, Any]) -> list[str]:
    """The figures as a person reads them in a terminal."""
    width = max(len(name) for name in summary["figures"])
    rows = [headline(summary), "", f"{'':<{width}}   before    after     gain   ± 95%"]
    for name, one in summary["figures"].items():
        if one["gain"] is None:
            rows.append(f"{name:<{width}}        –")
            continue
        reach = "–" if one["low"] is None else f"{one['high'] - one['gain']:.4f}"
        rows.append(f"{name:<{width}} {one['base']:8.4f} {one['rl']:8.4f} {one['gain']:+8.4f} {reach:>7}")
    return rows
