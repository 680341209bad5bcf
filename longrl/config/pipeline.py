"""The whole pipeline's settings: recipes, overrides, and errors that speak as a person writes.

`PipelineConfig` is the whole form: it is what a recipe in `longrl/recipes/*.yaml` fills in, what `--set` changes, and
what the Prefect UI shows. It imports neither torch nor vLLM, so opening the UI is instant. Unknown keys are errors that
name the nearest valid key. A stage's key in the warehouse is computed from its own section alone, so a changed setting
reruns that stage and only what depends on changed bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from longrl.config.base import ConfigError, Settings
from longrl.config.benchmark import BenchmarkSettings
from longrl.config.data import (
    CaptionSettings,
    CurateSettings,
    ImportSettings,
    IngestSettings,
    ReasonSettings,
    SegmentSettings,
    StoriesSettings,
    VerifySettings,
)
from longrl.config.learning import (
    DifficultySettings,
    EvaluateSettings,
    FrameSettings,
    ModelSettings,
    RlSettings,
    SftSettings,
)
from longrl.config.reading import read_recipe, validated
from longrl.config.tracking import TrackingSettings

RECIPES = Path(__file__).parents[1] / "recipes"


class PipelineConfig(Settings):
    """The whole pipeline, from a folder of videos to the report."""

    recipe: str = Field(
        "tiny", description="Name of the recipe these settings came from; to choose another, take its settings."
    )
    videos: str = Field("", description="Folder of videos; empty renders the story corpus.")
    warehouse: str = Field("warehouse", description="Folder of all artifacts.")
    seed: int = Field(0, ge=0, description="Seed of the corpus, the splits and the training.")
    runner: Literal["prefect", "ray"] = Field(
        "prefect", description="What runs the tasks: Prefect in this process, or Ray workers (RAY_ADDRESS or local)."
    )
    stories: StoriesSettings = Field(default_factory=StoriesSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    segment: SegmentSettings = Field(default_factory=SegmentSettings)
    caption: CaptionSettings = Field(default_factory=CaptionSettings)
    reason: ReasonSettings = Field(default_factory=ReasonSettings)
    verify: VerifySettings = Field(default_factory=VerifySettings)
    curate: CurateSettings = Field(default_factory=CurateSettings)
    imported: ImportSettings = Field(default_factory=ImportSettings)
    frames: FrameSettings = Field(default_factory=FrameSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    pretrain: SftSettings = Field(
        default_factory=lambda: SftSettings(phases=()),
        description="Text-only training of a student built from nothing; a pretrained model has no phases here.",
    )
    sft: SftSettings = Field(default_factory=SftSettings)
    difficulty: DifficultySettings = Field(default_factory=DifficultySettings)
    rl: RlSettings = Field(default_factory=RlSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    benchmark: BenchmarkSettings = Field(default_factory=BenchmarkSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)


def recipes() -> list[str]:
    """Names of the recipes that come with longrl."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(recipe: str = "tiny", overrides: dict[str, Any] | None = None) -> PipelineConfig:
    """Read a recipe and apply overrides.

    `overrides` maps dotted names to values, e.g. `{"rl.group_size": 16}`; strings are read as YAML, so `"16"` is 16.

    Raises `ConfigError` for an unknown recipe, an unknown key (naming the nearest valid one) or a value out of range.
    """
    path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise ConfigError(f"unknown recipe {recipe!r}; the recipes are: {', '.join(recipes())}")
    return parse_config(read_recipe(path, overrides or {}))


def parse_config(values: dict[str, Any]) -> PipelineConfig:
    """Validate a nested dictionary of settings; errors speak of fields as a person writes them."""
    return validated(PipelineConfig, values)
