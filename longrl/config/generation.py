"""Settings of `make generate-rl`: RL for image and video generators, from prompts to before and after.

`GenerateConfig` is the form of the flow `generate`; a recipe in `longrl/recipes/generation/*.yaml` fills it in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from longrl.config.base import ConfigError, Effort, Settings, Share
from longrl.config.data import TeacherServer
from longrl.config.learning import EngineSettings
from longrl.config.reading import read_recipe, validated
from longrl.config.tracking import TrackingSettings

RECIPES = Path(__file__).parents[1] / "recipes" / "generation"
RULES = (
    "brightness", "colour", "consistency", "contrast", "motion", "saturation", "scene", "sharpness", "smoothness",
    "symmetry",
)  # fmt: skip
SCORERS = ("aesthetic", "clip", "hps", "pickscore")


class PromptSettings(Settings):
    """What is to be drawn, in words, and which of it is held out."""

    path: str = Field(
        "",
        description="File of prompts: one a line, or JSON lines with `prompt`; empty: those of the rendered world.",
    )
    held_out: Share = Field(0.2, description="Share of the prompts that no training sees.")
    limit: int = Field(0, ge=0, description="Take the first so many prompts only; 0: all.")
    longest: int = Field(2000, ge=8, description="Characters of the longest prompt; longer ones are rejected.")


class GeneratorSettings(Settings):
    """The generator before any RL."""

    path: str = Field("", description="Folder of a diffusers pipeline; empty builds a tiny one from its configuration.")
    family: Literal["sd3", "wan", "flux"] = Field(
        "sd3", description="Kind of the tiny generator: Stable Diffusion 3 or Flux (pictures), Wan (clips)."
    )
    height: int = Field(32, ge=8, description="Height of pictures and clips in pixels.")
    width: int = Field(32, ge=8, description="Width of pictures and clips in pixels.")
    frames: int = Field(1, ge=1, description="Frames of a clip; 1: pictures.")
    prompt_tokens: int = Field(14, ge=8, le=512, description="Tokens of a prompt for the T5-type encoder.")
    negative: str = Field("", description="Prompt to be guided away from, where guidance is above 1.")
    shift: float | None = Field(
        None, gt=0.0, description="Shift of the noise levels towards noise; empty: as the pipeline's scheduler says."
    )
    layers: int = Field(4, ge=1, description="Tiny generator: transformer blocks.")
    heads: int = Field(4, ge=1, description="Tiny generator: attention heads.")
    head_width: int = Field(24, ge=12, description="Tiny generator: width of a head.", multiple_of=6)
    text_width: int = Field(48, ge=16, description="Tiny generator: width of its text encoders.", multiple_of=16)
    vocabulary: int = Field(400, ge=300, description="Tiny generator: largest size of the tokenizers' vocabulary.")


class FlowMatchingSettings(EngineSettings):
    """Pretraining of a tiny generator on rendered pictures or clips, so that RL starts from something."""

    steps: int = Field(600, ge=0, description="Steps of flow matching.")
    batch: int = Field(32, ge=1, description="Pictures or clips of a step, over all ranks.")
    learning_rate: float = Field(1e-3, gt=0.0, description="Peak learning rate of the transformer.")
    warmup: int = Field(20, ge=0, description="Steps of linear warm-up.")
    decay: Share = Field(0.5, description="Share of the steps, at the end, over which the rate falls to a tenth.")
    unconditional: Share = Field(
        0.1, description="Share of examples whose prompt is replaced by the negative one, for guidance."
    )
    checkpoint_every: int = Effort(200, ge=1, description="Steps between checkpoints.")


class SamplingSettings(Settings):
    """How a sample is drawn in RL; see longrl/diffusion/sde.py."""

    steps: int = Field(8, ge=2, description="Denoising steps in training; fewer than in evaluation are enough.")
    guidance: float = Field(1.0, ge=1.0, description="Classifier-free guidance, the same in rollout and update.")
    noise: Literal["flow_grpo", "dance_grpo"] = Field(
        "flow_grpo", description="Noise of the SDE: growing with the noise level (Flow-GRPO), or the same everywhere."
    )
    noise_level: float = Field(0.7, gt=0.0, description="How much noise the SDE adds (a of Flow-GRPO).")
    window: int = Field(
        2, ge=1, description="Steps in a row that are sampled by the SDE and trained; the others follow the ODE."
    )
    window_from: int = Field(0, ge=0, description="Earliest step at which the window may begin.")
    window_to: int = Field(
        0,
        ge=0,
        description="The window ends before this step; 0: before the last, which follows the ODE. Diffusers' schedules "
        "of SD3 and Wan come close to 0 one step before, so noise there stays in the picture: end earlier.",
    )
    shared_noise: bool = Field(False, description="All samples of a prompt begin with the same noise.")
    batch: int = Effort(16, ge=1, description="Samples in one forward, of rollout and update.")

    @model_validator(mode="after")
    def _room_for_the_window(self) -> SamplingSettings:
        if self.window_to > self.steps - 1:
            raise ValueError(f"window_to is {self.window_to}, but the last of {self.steps} steps follows the ODE")
        if self.window_from + self.window > self.window_end:
            raise ValueError(
                f"a window of {self.window} does not fit between steps {self.window_from} and {self.window_end}"
            )
        return self

    @property
    def window_end(self) -> int:
        """The step before which the window ends."""
        return self.window_to or self.steps - 1


class GenerateRlSettings(EngineSettings):
    """Flow-GRPO: policy gradients on the denoising steps of a generator."""

    steps: int = Field(60, ge=0, description="Batches of rollouts.")
    prompts_per_step: int = Field(8, ge=1, description="Prompts of a step, over all ranks.")
    group_size: int = Field(8, ge=2, description="Samples of each prompt (G).")
    train: Literal["lora", "full"] = Field("lora", description="What is trained: an adapter, or the transformer.")
    lora_rank: int = Field(32, ge=1, description="Rank of the adapter.")
    lora_alpha: int = Field(64, ge=1, description="Scale of the adapter, divided by its rank.")
    rewards: dict[str, float] = Field(
        {"colour": 1.0},
        description="Weights of the rewards: rules by name, scorers as clip:/folder, brisque, judge, or a Python "
        "function of one's own as path/to/file.py:function (docs/generation.md).",
    )
    judge_question: str = Field(
        "How well does the picture or clip show what was asked for, and how good does it look?",
        description="What the reward `judge` asks, on a scale from 0 to 10.",
    )
    server: TeacherServer = Field(default_factory=TeacherServer, description="The server behind the reward `judge`.")
    sampling: SamplingSettings = Field(default_factory=SamplingSettings, description="How samples are drawn.")
    normalise: Literal["group", "batch"] = Field(
        "group", description="Advantages: less the group's mean, over the group's deviation or the whole batch's."
    )
    largest_advantage: float = Field(5.0, gt=0.0, description="Advantages are cut at this size.")
    updates_per_batch: int = Field(1, ge=1, description="Mini-batches of a step's samples, each an optimizer update.")
    clip: float = Field(1e-3, gt=0.0, description="Clip range of the ratio of a denoising step.")
    kl: float = Field(0.01, ge=0.0, description="Weight in the loss of the KL to the generator before RL; 0: none.")
    learning_rate: float = Field(3e-4, gt=0.0, description="Peak learning rate.")
    warmup: int = Field(3, ge=0, description="Steps of linear warm-up.")
    decay: Share = Field(0.0, description="Share of the steps, at the end, over which the rate falls to a tenth.")
    gradient_checkpointing: Literal["none", "recompute"] = Effort(
        "none", description="Recompute the transformer's blocks in the backward pass."
    )
    host_gib: float = Effort(
        8.0, ge=0.0, description="Rollouts (latents, logprobs) that take more of a rank's memory than this go to disk."
    )
    ranks: int = Effort(1, ge=1, description="Training processes on this machine; a killed run may go on with others.")
    checkpoint_every: int = Effort(10, ge=1, description="Steps between checkpoints.")

    @field_validator("rewards")
    @classmethod
    def known(cls, rewards: dict[str, float]) -> dict[str, float]:
        """At least one reward, each by its name, its folder, or as a function's address."""
        if not rewards:
            raise ValueError("at least one reward is needed")
        for name in rewards:
            kind, colon, rest = name.partition(":")
            if name in (*RULES, "brisque", "judge") or (colon and rest):
                continue
            if kind in SCORERS:
                raise ValueError(f"reward {kind!r} needs its model's folder: {kind}:/path/to/folder")
            raise ValueError(
                f"unknown reward {name!r}; there are {', '.join(RULES)}, brisque, judge, "
                f"{', '.join(f'{one}:/folder' for one in SCORERS)} and path/to/file.py:function"
            )
        return rewards

    @model_validator(mode="after")
    def _prompts_for_all_ranks(self) -> GenerateRlSettings:
        if self.prompts_per_step < self.ranks:
            raise ValueError(f"rl.prompts_per_step is {self.prompts_per_step}, fewer than the {self.ranks} ranks")
        return self


class CompareSettings(Settings):
    """Held-out prompts drawn before and after RL, with the same seeds."""

    steps: int = Field(16, ge=1, description="Denoising steps.")
    guidance: float = Field(1.0, ge=1.0, description="Classifier-free guidance.")
    samples: int = Field(4, ge=2, description="Samples of each held-out prompt.")
    prompts: int = Field(0, ge=0, description="So many held-out prompts; 0: all.")
    batch: int = Effort(16, ge=1, description="Samples in one forward.")
    fps: float = Effort(8.0, gt=0.0, description="Frames a second at which the report plays clips.")


class GenerateConfig(Settings):
    """RL for an image or video generator, from prompts to the pictures before and after."""

    recipe: str = Field("tiny-image", description="Name of the recipe these settings came from.")
    warehouse: str = Field("warehouse", description="Folder of all artifacts.")
    seed: int = Field(0, ge=0, description="Seed of the split, the tiny generator and the training.")
    prompts: PromptSettings = Field(default_factory=PromptSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    pretrain: FlowMatchingSettings = Field(default_factory=FlowMatchingSettings)
    rl: GenerateRlSettings = Field(default_factory=GenerateRlSettings)
    compare: CompareSettings = Field(default_factory=CompareSettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)


def generation_recipes() -> list[str]:
    """Names of the generators' recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_generation(recipe: str = "tiny-image", overrides: dict[str, Any] | None = None) -> GenerateConfig:
    """Read a generator's recipe and apply overrides by their dotted names; raises `ConfigError`."""
    if recipe not in generation_recipes():
        raise ConfigError(f"unknown recipe {recipe!r}; generators' are: {', '.join(generation_recipes())}")
    return validated(GenerateConfig, read_recipe(RECIPES / f"{recipe}.yaml", overrides or {}))
