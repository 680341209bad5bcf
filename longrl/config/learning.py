"""Settings of the stages that make and judge the model, from its frames to its evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from longrl.config.base import Effort, Later, Settings, Share
from longrl.config.data import TeacherServer
from longrl.config.lora import LoraSettings

REWARDS = ("accuracy", "match", "format", "length", "overlong", "judge")


class FrameSettings(Settings):
    """What the student sees of a video; shared by SFT, rollouts and evaluation."""

    budget: int = Field(32, ge=2, description="Frames sampled from a video (even).", multiple_of=2)
    budgets: tuple[int, ...] = Field((4, 8, 16, 32), description="Frame budgets mixed in SFT and shown in evaluation.")
    height: int = Field(
        56, ge=28, description="Frame height in pixels, a multiple of 28 (Qwen3-VL: of 32).", multiple_of=4
    )
    width: int = Field(
        56, ge=28, description="Frame width in pixels, a multiple of 28 (Qwen3-VL: of 32).", multiple_of=4
    )
    image_pixels: int = Field(
        802_816, ge=784, description="Pixels of an image, at most; larger ones are shrunk, their shape about kept."
    )
    image_multiple: int = Field(28, ge=14, description="Sides of images are multiples of it: 28, for Qwen3-VL 32.")
    audio: Literal["none", "beside", "alone"] = Field(
        "none",
        description="Whether a video's sound is heard: not, beside its frames, or alone (families that take audio). "
        "Videos without a sound track are then rejects.",
    )
    embedding_cache_gib: float = Effort(
        50.0,
        gt=0.0,
        description="Size of the cache of video embeddings; beyond it the least recently used go, except those that "
        "running jobs use.",
    )


class ModelSettings(Settings):
    """The student before any training."""

    path: str = Field(
        "", description="Hugging Face folder of a model (docs/models.md tells which families); empty builds a tiny one."
    )
    family: str = Field(
        "qwen2_5_vl", description="Tiny model: the family it is built of, by the `model_type` of docs/models.md."
    )
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


class EngineSettings(Settings):
    """How a model is trained, whatever the loss: AdamW, ZeRO and ranks."""

    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's weight decay.")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's decay rates of the moments.")
    gradient_clipping: float = Field(1.0, gt=0.0, description="Largest global gradient norm.")
    zero_stage: Literal[0, 1, 2, 3] = Effort(0, description="What DeepSpeed ZeRO shards over the ranks.")
    offload: Literal["none", "optimizer", "all"] = Effort(
        "none", description="Kept in the host's memory: AdamW's state (ZeRO 1-3), or all, the weights too (ZeRO 3)."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Numbers the model computes in.")
    ranks: int = Effort(
        2,
        ge=1,
        description="Training processes on each machine, in RL each with its own rollout engine; a killed run may go "
        "on with another number.",
    )
    nodes: Annotated[int, Field(ge=1)] | tuple[str, ...] = Effort(
        1,
        description="Machines that train together: how many of the SLURM job that this runs in, or their names, this "
        "one first, to be reached by ssh.",
    )

    @field_validator("offload")
    @classmethod
    def _offload_fits_stage(cls, offload: str, info: ValidationInfo) -> str:
        """DeepSpeed offloads what ZeRO shards."""
        least = {"none": 0, "optimizer": 1, "all": 3}[offload]
        if (stage := info.data.get("zero_stage", least)) < least:
            raise ValueError(f"offload {offload!r} needs zero_stage {least} or higher, not {stage}")
        return offload

    @field_validator("nodes")
    @classmethod
    def _some_nodes(cls, nodes: int | tuple[str, ...]) -> int | tuple[str, ...]:
        """A list names each machine once."""
        if not isinstance(nodes, int) and (not nodes or len(set(nodes)) < len(nodes) or not all(nodes)):
            raise ValueError(f"name at least one machine, and each once, not {list(nodes)}")
        return nodes

    @property
    def machines(self) -> int:
        """How many machines train together."""
        return count(self.nodes)


def count(nodes: int | tuple[str, ...]) -> int:
    """How many machines `nodes` stands for."""
    return nodes if isinstance(nodes, int) else len(nodes)


class StudentEngineSettings(EngineSettings):
    """The same for the student: also LoRA, and what saves memory in long sequences."""

    lora: LoraSettings = Later(
        default_factory=LoraSettings, description="Train small updates of the language model (LoRA), or all of it."
    )
    sequence_parallel: int = Effort(
        1,
        ge=1,
        description="Ranks that share each packed sequence (Ulysses); divides the ranks (of all machines) and heads.",
    )
    gradient_checkpointing: Literal["none", "recompute", "offload"] = Effort(
        "none", description="Recompute layers in the backward pass, their inputs kept on the device or on the host."
    )
    mlp_tiles: int = Effort(
        1, ge=1, description="Parts of a sequence that feed-forward layers work on one by one, to save memory."
    )

    @field_validator("sequence_parallel")
    @classmethod
    def _degree_divides_ranks(cls, degree: int, info: ValidationInfo) -> int:
        """Groups that share sequences are of one size, so it must divide the number of ranks."""
        ranks = info.data.get("ranks", degree) * count(info.data.get("nodes", 1))
        if ranks % degree:
            raise ValueError(f"the degree must divide the ranks of all machines, which are {ranks}")
        return degree


class SftSettings(StudentEngineSettings):
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
    freeze_projector: bool | None = Later(
        None, description="Keep the projector (Qwen: the tower's merger) as it is; empty: like the tower."
    )
    freeze_language: bool = Later(False, description="Keep the language model as it is, its head and embedding too.")
    weight_decay: float = Field(0.01, ge=0.0, description="AdamW's weight decay.")
    checkpoint_every: int = Effort(
        100, ge=1, description="Steps between checkpoints; a killed run resumes from the last."
    )

    @property
    def frozen(self) -> set[str]:
        """What is not trained, of tower, projector and language."""
        projector = self.freeze_vision if self.freeze_projector is None else self.freeze_projector
        flags = {"tower": self.freeze_vision, "projector": projector, "language": self.freeze_language}
        return {part for part, flag in flags.items() if flag}

    @model_validator(mode="after")
    def _something_is_trained_and_kept(self) -> SftSettings:
        if len(self.frozen) == 3:
            raise ValueError("tower, projector and language model are all frozen; nothing would be trained")
        text_only = ("recall_drill", "reading", "blind_questions")
        for phase in self.phases if self.freeze_language else ():
            if idle := [kind for kind in text_only if getattr(phase.mixture, kind)]:
                raise ValueError(
                    f"freeze_language leaves nothing to train on examples without a video, but phase {phase.name} has "
                    f"{', '.join(idle)}; take them out of its mixture"
                )
        if not self.lora.rank:
            return self
        if self.freeze_language:
            raise ValueError("freeze_language keeps LoRA's updates from being trained; set one of the two")
        if self.lora.checkpoint != "merged" and not {"tower", "projector"} <= self.frozen:
            raise ValueError(
                f"lora.checkpoint={self.lora.checkpoint} leaves an adapter, which holds updates of the language model "
                "alone, but tower or projector are trained too; set freeze_vision=true, or lora.checkpoint=merged"
            )
        return self


class DifficultySettings(Settings):
    """The student answers the questions of the RL split; what it always or never gets right leaves the split."""

    samples: int = Field(0, ge=0, description="Answers to each question; 0 leaves the stage out.")
    temperature: float = Field(1.0, gt=0.0, description="Sampling temperature.")
    max_tokens: int = Field(96, ge=8, description="Longest answer in tokens.")
    low: Share = Field(0.0, description="Questions with this pass rate or less are too hard.")
    high: Share = Field(1.0, description="Questions with this pass rate or more are too easy.")
    ranks: int = Effort(2, ge=1, description="Engine processes on this machine; questions are shared out by video.")


class RolloutSettings(Settings):
    """Where and with what means rollouts are made; what is sampled does not depend on it."""

    engine: Literal["vllm", "transformers"] = Field(
        "vllm",
        description="`transformers` is the slow reference, taken with a warning for families that vLLM lacks.",
    )
    tensor_parallel: int = Field(
        1, ge=1, description="Neighbouring ranks that hold one engine together; rl.ranks / tensor_parallel engines run."
    )
    max_num_seqs: int = Field(256, ge=1, description="Responses an engine works on at once.")
    kv_cache_gib: float = Field(1.0, gt=0.0, description="KV cache of an engine on the CPU, in GiB.")
    memory_share: float = Field(0.4, gt=0.0, le=1.0, description="Share of a GPU's memory that its engine may use.")
    sleep: bool = Field(False, description="On GPUs: the engine lends its memory to training between rollouts.")
    servers: tuple[str, ...] = Field(
        (), description="Base URLs of servers (`python -m longrl.rollout.serve`) on other GPUs, in place of engines."
    )
    weights_folder: str = Field(
        "/dev/shm", description="Folder that trainer and servers share: new weights go through it."
    )


class RlSettings(StudentEngineSettings):
    """RL on questions not seen in SFT, with rollouts from cached video embeddings.

    The default is DAPO's loss without its dynamic sampling (`refills`) and overlong shaping (the reward `overlong`).
    """

    steps: int = Field(40, ge=0, description="Batches of rollouts.")
    prompts_per_step: int = Field(24, ge=1, description="Questions rolled out in a step (all ranks), refills apart.")
    group_size: int = Field(8, ge=2, description="Samples of each question (G).")
    max_tokens: int = Field(96, ge=8, description="Longest response in tokens.")
    temperature: float = Field(1.0, gt=0.0, description="Sampling temperature of the rollouts.")
    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce++", "reinforce++-baseline"] = (
        Field("dapo", description="Advantages, loss and normalisation, each told in longrl/training/algorithms/.")
    )
    refills: int = Field(
        0,
        ge=0,
        description="Extra rounds of rollouts that replace groups with equal rewards, at most so many a step; above 0 "
        "such groups are dropped whatever the algorithm.",
    )
    updates_per_batch: int = Field(
        1,
        ge=1,
        description="Mini-batches of a step's groups, each an optimizer update; clipping acts from the second on.",
    )
    learning_rate: float = Field(5e-5, gt=0.0, description="Peak learning rate.")
    warmup: int = Field(3, ge=0, description="Steps of linear warm-up.")
    decay: Share = Field(0.0, description="Share of the steps, at the end, over which the rate falls to a tenth.")
    clip_low: float | None = Field(
        None, gt=0.0, description="Lower clip range of the ratio; null: the algorithm's own."
    )
    clip_high: float | None = Field(
        None, gt=0.0, description="Upper clip range of the ratio; null: the algorithm's own."
    )
    importance_cap: float = Field(
        2.0,
        ge=1.0,
        description="Largest weight of a token that the trainer thinks likelier than the engine which sampled it "
        "(truncated importance sampling).",
    )
    kl: float = Field(0.0, ge=0.0, description="Weight in the loss of the KL to the SFT model; 0: none.")
    kl_estimator: Literal["k1", "k3"] = Field("k3", description="How the KL is estimated from sampled tokens.")
    rewards: dict[str, float] = Field(
        {"accuracy": 0.9, "format": 0.1},
        description="Weights of the rewards: accuracy, match, format, length, overlong, judge, or a Python function of "
        "one's own as path/to/file.py:function or module:function (longrl/training/rewards.py).",
    )
    truncated: Literal["keep", "mask", "penalise"] = Field(
        "penalise",
        description="Responses cut at max_tokens: judged like any other; left out of loss and baseline; or earning "
        "nothing (penalties stay).",
    )
    server: TeacherServer = Field(
        default_factory=TeacherServer, description="The server behind the reward `judge`, which judges open answers."
    )
    order: Literal["shuffle", "easy_to_hard", "length_bucketed"] = Field(
        "shuffle", description="Order of the questions in an epoch: by chance, by pass rate, or alike lengths together."
    )
    patience: int = Field(
        10,
        ge=1,
        description="Steps in a row in which nothing could be learned (all groups' rewards equal) before RL ends "
        "early, with a warning and what it has learned by then.",
    )
    shuffle_rewards: bool = Field(
        False, description="Control: rewards are permuted over the batch, so nothing can be learned."
    )
    parity_tolerance: float = Field(
        0.05, gt=0.0, description="Largest accepted |trainer - vLLM| logprob of a rollout token."
    )
    parity_mean_tolerance: float | None = Effort(
        None,
        gt=0.0,
        description="Largest accepted mean of |trainer - vLLM| over the gate's tokens; empty: 1e-4, in bfloat16 1e-2.",
    )
    rollout: RolloutSettings = Effort(
        default_factory=RolloutSettings, description="Where and with what means rollouts are made."
    )
    checkpoint_every: int = Effort(10, ge=1, description="Steps between checkpoints.")

    @field_validator("rewards")
    @classmethod
    def known(cls, rewards: dict[str, float]) -> dict[str, float]:
        """At least one reward, each by its name or as a function's address."""
        if not rewards:
            raise ValueError("at least one reward is needed")
        for name in rewards:
            if name not in REWARDS and not all(name.rpartition(":")):
                raise ValueError(
                    f"unknown reward {name!r}; there are {', '.join(REWARDS)}, and path/to/file.py:function"
                )
        return rewards

    @field_validator("lora")
    @classmethod
    def _no_dropout(cls, lora: LoraSettings) -> LoraSettings:
        """A token's probability before and after an update, or here and in vLLM, must be the same model's."""
        if lora.rank and lora.dropout:
            raise ValueError(f"dropout is {lora.dropout}, but RL compares probabilities, which it would blur; set 0")
        return lora

    @model_validator(mode="after")
    def _engines_fit_the_ranks(self) -> RlSettings:
        shards, servers = self.rollout.tensor_parallel, self.rollout.servers
        if self.ranks % shards:
            raise ValueError(f"rl.rollout.tensor_parallel is {shards}, which must divide rl.ranks ({self.ranks})")
        if servers and shards > 1:
            raise ValueError("rl.rollout.tensor_parallel is for engines in process; start the servers with theirs")
        return self


class EvaluateSettings(Settings):
    """Greedy and sampled accuracy of base, SFT and RL on the held-out questions."""

    samples: int = Field(8, ge=0, description="Samples per question at temperature 1 (0: greedy only).")
    max_tokens: int = Field(96, ge=8, description="Longest answer in tokens.")
    shuffled_video_control: bool = Field(True, description="Also answer with another video's embeddings.")
    ranks: int = Effort(2, ge=1, description="Engine processes on this machine; questions are shared out by video.")
