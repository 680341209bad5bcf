"""Every setting of every stage, as frozen pydantic models.

`PipelineConfig` is the whole form: it is what a recipe in `longrl/recipes/*.yaml` fills in, what `--set` changes, and
what the Prefect UI shows. It imports neither torch nor vLLM, so opening the UI is instant. Unknown keys are errors that
name the nearest valid key. A stage's key in the warehouse is computed from its own section alone, so a changed setting
reruns that stage and only what depends on changed bytes.
"""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from longrl.errors import LongrlError

RECIPES = Path(__file__).parent / "recipes"

Categories = ("temporal", "goal", "spatial", "plot")
Share = Annotated[float, Field(ge=0.0, le=1.0)]


# How the work is done, not what is made: such a setting is no part of an artifact's key.
Effort = partial(Field, json_schema_extra={"effort": True})


class ConfigError(LongrlError):
    """A setting is unknown or out of range; the message names the field and the remedy."""


class Settings(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is made, as plain JSON values; an artifact's key is computed from these."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("effort"):
                continue
            value = getattr(self, name)
            values[name] = value.identity() if isinstance(value, Settings) else self.model_dump(mode="json")[name]
        return values


class StoriesSettings(Settings):
    """The rendered corpus that stands in when no videos are given."""

    count: int = Field(720, ge=4, description="Number of stories to render, one H.264 file each.")
    scenes: int = Field(6, ge=2, le=6, description="Scenes of a story, ten seconds and one agent each.")
    workers: int = Effort(2, ge=1, description="Rendering processes.")


class IngestSettings(Settings):
    """Finding, naming and probing the video files."""

    extensions: tuple[str, ...] = Field(
        (".mp4", ".mkv", ".webm", ".mov", ".avi"), description="File name endings taken as videos."
    )
    minimum_frames: int = Field(2, ge=1, description="Videos with fewer decodable frames are quarantined.")
    workers: int = Effort(2, ge=1, description="Probing processes.")


class SegmentSettings(Settings):
    """Cutting videos into clips."""

    mode: Literal["fixed", "scene"] = Field("fixed", description="Clips of one length, or clips that end at cuts.")
    clip_seconds: float = Field(10.0, gt=0.0, description="Mode `fixed`: length of a clip in seconds.")
    minimum_tail: float = Field(
        2.0, ge=0.0, description="Mode `fixed`: a last clip shorter than this (seconds) joins the one before."
    )
    detector: Literal["adaptive", "content"] = Field(
        "adaptive", description="Mode `scene`: PySceneDetect's detector; `adaptive` is steadier where the camera moves."
    )
    threshold: float | None = Field(
        None, gt=0.0, description="Mode `scene`: change that makes a cut, in the detector's units; empty: its default."
    )
    shortest: float = Field(2.0, gt=0.0, description="Mode `scene`: a shorter scene (seconds) joins a neighbour.")
    longest: float = Field(10.0, gt=0.0, description="Mode `scene`: a longer scene (seconds) is split evenly.")
    motion: Literal["off", "score_only", "enable"] = Field(
        "off", description="Score the motion of clips, and with `enable` also reject those below `minimum_motion`."
    )
    minimum_motion: float = Field(
        2.0, ge=0.0, description="Mean change of a pixel per second (0-255) that a clip needs with motion `enable`."
    )
    frames_per_second: float = Field(5.0, gt=0.0, description="Frames looked at for cuts and motion.")
    size: int = Field(96, ge=28, description="Longer side, in pixels, of the frames looked at for cuts and motion.")
    workers: int = Effort(2, ge=1, description="Processes that look for cuts and motion.")

    @model_validator(mode="after")
    def _room_to_split(self) -> SegmentSettings:
        if self.longest < 2 * self.shortest:
            raise ValueError("segment.longest must be at least twice segment.shortest, or long scenes can't be split")
        return self


Language = Literal["", "English", "French", "German", "Spanish", "Russian", "Greek", "Arabic", "Hindi", "Chinese",
                   "Japanese", "Korean"]  # fmt: skip


class TeacherServer(Settings):
    """An OpenAI-compatible server (vLLM, DeepSeek, OpenAI, ...). The key is read from the environment, never stored."""

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Address of the server, up to and including /v1.")
    model: str = Field("", description="Model name; empty takes the server's first model.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    api_key_secret: str = Effort("", description="Prefect Secret block to take the key from instead; empty takes none.")
    concurrency: int = Effort(8, ge=1, description="Requests in flight.")
    timeout: float = Effort(120.0, gt=0.0, description="Seconds until a request is given up and retried.")
    retries: int = Effort(4, ge=0, description="Retries of a request after 429, 5xx, a timeout or a lost connection.")
    max_tokens: int = Field(1024, ge=16, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0.0, description="Sampling temperature.")
    context: int = Field(
        32768, ge=0, description="The model's context in tokens; 0 asks the server (`max_model_len` of vLLM's /models)."
    )
    language: Language = Field(
        "English", description="Language to be written; an answer in another script is rejected. Empty: any."
    )
    price_input: float = Effort(0.0, ge=0.0, description="Price of a million prompt tokens, in any currency.")
    price_output: float = Effort(0.0, ge=0.0, description="Price of a million answer tokens, in the same currency.")


class CaptionSettings(Settings):
    """Describing each clip."""

    teacher: Literal["measured", "openai"] = Field("measured", description="Who captions the clips.")
    frames_per_clip: int = Field(20, ge=2, description="Frames sampled from a clip for its caption.")
    size: int = Field(112, ge=28, description="Longer side, in pixels, of the frames the teacher sees.")
    send: Literal["images", "video"] = Field(
        "images", description="Teacher `openai`: send the frames as pictures, each after its time, or as one mp4."
    )
    boxes: bool = Field(False, description="Teacher `openai`: also ask for objects with their boxes and times.")
    mode: Literal["live", "batch"] = Effort(
        "live", description="Teacher `openai`: request by request, or as files of requests (OpenAI's batch API)."
    )
    server: TeacherServer = Field(default_factory=TeacherServer, description="The server behind teacher `openai`.")
    workers: int = Effort(2, ge=1, description="Decoding and measuring processes.")


class ReasonSettings(Settings):
    """Writing questions with a chain of thought over all captions of a video."""

    teacher: Literal["measured", "openai"] = Field("measured", description="Who writes the questions.")
    questions_per_video: int = Field(6, ge=1, description="Questions asked of each video, spread over the categories.")
    open_share: Share = Field(0.0, description="Teacher `openai`: share of open questions, answered in words.")
    rewrite: bool = Field(
        True, description="Teacher `openai`: have each reasoning rewritten so that it speaks of the video alone."
    )
    mode: Literal["live", "batch"] = Effort(
        "live", description="Teacher `openai`: request by request, or as files of requests (OpenAI's batch API)."
    )
    server: TeacherServer = Field(default_factory=TeacherServer, description="The server behind teacher `openai`.")


class VerifySettings(Settings):
    """Asking a model about the questions before they are curated; left out while both checks are off."""

    blind_samples: int = Field(
        0, ge=0, description="Times a text-only model answers each question without the video; 0: no blind check."
    )
    judge: bool = Field(False, description="Let a model judge each question against the captions.")
    server: TeacherServer = Field(
        default_factory=lambda: TeacherServer(temperature=0.7), description="The server that answers and judges."
    )


class CurateSettings(Settings):
    """Filtering questions in DuckDB and splitting them by video."""

    disabled_rules: tuple[str, ...] = Field((), description="Names of rules in longrl/data/rules/ to leave out.")
    benchmarks: tuple[str, ...] = Field(
        (),
        description="Benchmark files (json, jsonl, parquet, csv) whose videos and questions must not be in the data.",
    )
    benchmark_ngram: int = Field(13, ge=1, description="Words of the n-grams compared with benchmark questions.")
    benchmark_share: float = Field(
        0.5, gt=0.0, le=1.0, description="Share of a question's n-grams found in benchmarks from which it is dropped."
    )
    blind_threshold: float = Field(
        0.8, gt=0.0, le=1.0, description="Share of blind answers that are right from which a question is dropped."
    )
    near_duplicate_threshold: float = Field(
        0.9, gt=0.0, le=1.0, description="Jaccard similarity of five-word shingles from which items are duplicates."
    )
    embedding_threshold: float = Field(
        0.0, ge=0.0, le=1.0, description="Cosine of embeddings from which texts are duplicates; 0: no embeddings."
    )
    server: TeacherServer = Field(
        default_factory=TeacherServer, description="The server behind `embedding_threshold` (/v1/embeddings)."
    )
    category_cap: int = Field(0, ge=0, description="Most questions of one category; 0: no cap.")
    sft_share: Share = Field(0.6, description="Share of videos whose questions go to SFT.")
    eval_share: Share = Field(0.1, description="Share of videos held out for evaluation; the rest goes to RL.")
    memory_mib: int = Effort(512, ge=128, description="Memory of DuckDB, in MiB; what exceeds it goes to disk.")
    threads: int = Effort(2, ge=1, description="Threads of DuckDB.")


class ImportSettings(Settings):
    """Questions that somebody wrote elsewhere; they take the place of reason and curate."""

    path: str = Field("", description="File or folder of the dataset; empty: questions are written here.")
    format: Literal["huggingface", "llava", "longvideo-reason", "video-r1"] = Field(
        "huggingface", description="What the dataset is written as."
    )
    split: Literal["sft", "rl", "eval"] = Field(
        "sft", description="Split of rows that neither they nor their file name."
    )
    category: Literal["", "temporal", "goal", "spatial", "plot"] = Field(
        "", description="Category of rows that name none; empty: such rows are rejects."
    )


class FrameSettings(Settings):
    """What the student sees of a video; shared by SFT, rollouts and evaluation."""

    budget: int = Field(32, ge=2, description="Frames sampled from a video (even).", multiple_of=2)
    budgets: tuple[int, ...] = Field((4, 8, 16, 32), description="Frame budgets mixed in SFT and shown in evaluation.")
    height: int = Field(56, ge=28, description="Frame height in pixels, a multiple of 28.", multiple_of=28)
    width: int = Field(56, ge=28, description="Frame width in pixels, a multiple of 28.", multiple_of=28)


class ModelSettings(Settings):
    """The student before any training."""

    path: str = Field("", description="Hugging Face folder of a Qwen2.5-VL model; empty builds the tiny one.")
    hidden_size: int = Field(128, ge=32, description="Tiny model: width of the language model.")
    layers: int = Field(4, ge=1, description="Tiny model: layers of the language model.")
    heads: int = Field(4, ge=1, description="Tiny model: attention heads.")
    feed_forward: int = Field(256, ge=32, description="Tiny model: width of the feed-forward layers.")
    vision_width: int = Field(64, ge=16, description="Tiny model: width of the vision tower.")
    vision_depth: int = Field(2, ge=1, description="Tiny model: blocks of the vision tower.")
    vocabulary: int = Field(600, ge=300, description="Tiny model: largest size of the tokenizer's vocabulary.")
    initializer_range: float = Field(0.08, gt=0.0, description="Tiny model: standard deviation of initial weights.")
    rope_theta: float = Field(1000.0, gt=0.0, description="Tiny model: base of the rotary frequencies.")


class Mixture(Settings):
    """Examples of one training step, by kind; a phase draws these many of each."""

    recall_drill: int = Field(0, ge=0, description="Random records, to be recalled by their keys (text only).")
    clip_captions: int = Field(0, ge=0, description="Single clips, described in answer to any question of their video.")
    video_captions: int = Field(0, ge=0, description="Whole videos, all their captions in order, likewise.")
    reading: int = Field(
        0, ge=0, description="Questions without the video: the chain is given, the conclusion learned."
    )
    blind_questions: int = Field(
        0, ge=0, description="Questions without the video, the chain learned too: how one speaks, not what was seen."
    )
    questions: int = Field(0, ge=0, description="Videos, each with `questions_per_video` of its questions.")


class Phase(Settings):
    """One phase of the SFT curriculum."""

    name: str = Field(description="Shown in logs and in the report.")
    steps: int = Field(ge=0, description="Optimizer steps.")
    learning_rate: float = Field(1e-3, gt=0.0, description="Peak learning rate.")
    warmup: int = Field(20, ge=0, description="Steps of linear warm-up at the phase's start.")
    decay: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the phase, at its end, over which the rate falls to a tenth."
    )
    budgets: tuple[int, ...] = Field((), description="Frame budgets of whole videos; empty takes frames.budgets.")
    until: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="End the phase early when this share of recent responses at the full frame budget, each token "
        "predicted from the right ones before it, is right word for word (mean over categories).",
    )
    mixture: Mixture = Field(description="What a step is made of.")


class SftSettings(Settings):
    """Supervised fine-tuning on captions and chains of thought."""

    phases: tuple[Phase, ...] = Field(
        (Phase(name="questions", steps=100, mixture=Mixture(questions=8)),), description="The curriculum, in order."
    )
    questions_per_video: int = Field(5, ge=1, description="Questions that share one encoding of their video in a step.")
    loss_weights: tuple[float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 2.0),
        description="Weights of the tokens of reasoning, conclusion, answer, and of option letters in the conclusion.",
    )
    freeze_vision: bool = Field(False, description="Keep the vision tower as it is.")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's weight decay.")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates of the moments.")
    gradient_clipping: float = Field(1.0, gt=0.0, description="Largest global gradient norm.")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="What DeepSpeed ZeRO shards over the ranks.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Numbers the model computes in.")
    ranks: int = Field(2, ge=1, description="Data-parallel processes on this machine.")
    checkpoint_every: int = Effort(
        100, ge=1, description="Steps between checkpoints; a killed run resumes from the last."
    )


class DifficultySettings(Settings):
    """The student answers the questions of the RL split; what it always or never gets right leaves the split."""

    samples: int = Field(0, ge=0, description="Answers to each question; 0 leaves the stage out.")
    temperature: float = Field(1.0, gt=0.0, description="Sampling temperature.")
    max_tokens: int = Field(96, ge=8, description="Longest answer in tokens.")
    low: Share = Field(0.0, description="Questions with this pass rate or less are too hard.")
    high: Share = Field(1.0, description="Questions with this pass rate or more are too easy.")
    ranks: int = Effort(2, ge=1, description="Engine processes on this machine; questions are shared out by video.")


class RlSettings(Settings):
    """GRPO on questions not seen in SFT, with rollouts from cached video embeddings."""

    steps: int = Field(40, ge=0, description="Optimizer steps.")
    prompts_per_step: int = Field(24, ge=1, description="Questions rolled out in a step (over all ranks).")
    group_size: int = Field(8, ge=2, description="Samples of each question (G).")
    max_tokens: int = Field(96, ge=8, description="Longest response in tokens.")
    temperature: float = Field(1.0, gt=0.0, description="Sampling temperature of the rollouts.")
    learning_rate: float = Field(5e-5, gt=0.0, description="Peak learning rate.")
    warmup: int = Field(3, ge=0, description="Steps of linear warm-up.")
    clip_low: float = Field(0.2, gt=0.0, description="Lower clip range of the ratio.")
    clip_high: float = Field(0.2, gt=0.0, description="Upper clip range of the ratio.")
    kl: float = Field(0.0, ge=0.0, description="Weight of the KL to the SFT model (k3 estimator).")
    accuracy_weight: Share = Field(0.9, description="Weight of a right answer in the reward.")
    format_weight: Share = Field(0.1, description="Weight of the think/answer format in the reward.")
    shuffle_rewards: bool = Field(
        False, description="Control: rewards are permuted over the batch, so nothing can be learned."
    )
    parity_tolerance: float = Field(
        0.05, gt=0.0, description="Largest accepted |trainer - vLLM| logprob of a rollout token."
    )
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's weight decay.")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates of the moments.")
    gradient_clipping: float = Field(1.0, gt=0.0, description="Largest global gradient norm.")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="What DeepSpeed ZeRO shards over the ranks.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Numbers the model computes in.")
    ranks: int = Field(
        2, ge=1, description="Data-parallel processes on this machine, each with its own rollout engine."
    )
    checkpoint_every: int = Effort(10, ge=1, description="Steps between checkpoints.")


class EvaluateSettings(Settings):
    """Greedy and sampled accuracy of base, SFT and RL on the held-out questions."""

    samples: int = Field(8, ge=0, description="Samples per question at temperature 1 (0: greedy only).")
    max_tokens: int = Field(96, ge=8, description="Longest answer in tokens.")
    shuffled_video_control: bool = Field(True, description="Also answer with another video's embeddings.")
    ranks: int = Effort(2, ge=1, description="Engine processes on this machine; questions are shared out by video.")


class PipelineConfig(Settings):
    """The whole pipeline, from a folder of videos to the report."""

    recipe: str = Field("tiny", description="Name of the recipe these settings came from.")
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
    values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    values["recipe"] = recipe
    for name, value in (overrides or {}).items():
        set_dotted(values, name, yaml.safe_load(value) if isinstance(value, str) else value)
    return parse_config(values)


def parse_config(values: dict[str, Any]) -> PipelineConfig:
    """Validate a nested dictionary of settings; errors speak of fields as a person writes them."""
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(describe(item) for item in error.errors())) from None


def set_dotted(values: dict[str, Any], name: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries; raises `ConfigError` when `a.b` is a plain value."""
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{name}: {parent} is a single value, it has no fields")
    values[last] = value


def field_names(model: type[BaseModel] = PipelineConfig, prefix: str = "") -> list[str]:
    """Every setting's dotted name, sections before their fields."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += field_names(field.annotation, f"{prefix}{name}.")
    return names


def describe(error: Any) -> str:
    """One line for one pydantic error, with the nearest valid key where a key is unknown."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg']} (got {error.get('input')!r})"
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.0)
    return f"{name}: unknown setting; did you mean {near[0]!r}?"
