"""`longrl plan`: memory and seconds of an RL step before it is run, and the sequence-parallel degree that suits it.

A degree of sequence parallelism is legal when it divides the GPUs and the query heads. It shares one group's tokens
over its ranks, but takes those ranks from data parallelism and pays two all-to-alls a layer and pass (Ulysses,
arXiv:2309.14509). So it is chosen where memory asks for it, or where there are fewer prompts than GPUs and sharing
saves more than it costs: among the plans that fit, the fastest is taken, and of equals the one of the lowest degree.
The arithmetic is in `longrl.mrsp.costs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from longrl.config import PipelineConfig
from longrl.errors import LongrlError
from longrl.models.shape import Shape, shape_of
from longrl.mrsp.costs import Machine, Work, host_bytes, memory, seconds
from longrl.mrsp.degree import check_degree, legal_degrees

GIB = 2**30
TEXT = 200  # tokens of question, options and chat format in a prompt
LIGHTER: tuple[tuple[Literal["none", "recompute", "offload"], int], ...] = (
    ("none", 1),
    ("recompute", 1),
    ("offload", 1),
    ("offload", 8),
)  # checkpointing and tiles, from the fastest
USABLE = 0.92  # share of a GPU's memory that may be planned: the rest goes to CUDA, NCCL and fragmentation


# What makes room for a step that does not fit, from the cheapest: settings of `rl`, and what they are in a `Work`.
ROOM: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {}),
    ({"zero_stage": 2}, {"zero_stage": 2}),
    ({"zero_stage": 3}, {"zero_stage": 3}),
    ({"zero_stage": 2, "offload": "optimizer"}, {"zero_stage": 2, "offload": "optimizer"}),
    ({"zero_stage": 3, "offload": "optimizer"}, {"zero_stage": 3, "offload": "optimizer"}),
    ({"zero_stage": 3, "offload": "all"}, {"zero_stage": 3, "offload": "all"}),
)
RANK = 32  # of the LoRA that a remedy proposes


class PlanError(LongrlError):
    """Nothing fits; the message says what would."""


@dataclass(frozen=True)
class Plan:
    """A laid-out step with what it takes, and why its degree was chosen."""

    work: Work
    machine: Machine
    memory: dict[str, int]
    seconds: dict[str, float]
    reason: str

    @property
    def gib(self) -> float:
        return sum(self.memory.values()) / GIB

    @property
    def step(self) -> float:
        """Seconds of a step whose videos are in the cache."""
        return sum(value for name, value in self.seconds.items() if not name.startswith("encode"))

    def fits(self) -> bool:
        return self.gib <= USABLE * self.machine.gib


def choose(shape: Shape, work: Work, machine: Machine, degree: int | None = None) -> Plan:
    """The fastest plan that fits; `degree` given is taken, if it is legal.

    Raises `DegreeError` for an illegal degree, and `PlanError` when nothing fits, naming the largest parts and settings
    with which it would.
    """
    if degree is not None:
        check_degree(degree, machine.gpus, shape.heads)
    plans = layouts(shape, work, machine, degree)
    fitting = [plan for plan in plans if plan.fits()]
    if not fitting:
        raise PlanError(too_small(shape, min(plans, key=lambda plan: plan.gib), degree))
    best = min(fitting, key=lambda plan: (plan.step, plan.work.degree))
    return replace(best, reason="as asked" if degree else reason(best, plans))


def layouts(shape: Shape, work: Work, machine: Machine, degree: int | None = None) -> list[Plan]:
    """The work at every legal degree, or the one given, with all that is kept, or less and less of it."""
    return [
        laid_out(shape, replace(work, degree=d, checkpointing=kept, tiles=tiles), machine)
        for d in ([degree] if degree else legal_degrees(machine.gpus, shape.heads))
        for kept, tiles in LIGHTER
    ]


def laid_out(shape: Shape, work: Work, machine: Machine) -> Plan:
    return Plan(work, machine, memory(shape, work, machine.gpus), seconds(shape, work, machine), "")


def reason(best: Plan, plans: list[Plan]) -> str:
    """Why this degree and no other."""
    work, machine = best.work, best.machine
    fitting = [plan for plan in plans if plan.fits()]
    alone = [plan.step for plan in fitting if plan.work.degree == 1]
    shared = [plan.step for plan in fitting if plan.work.degree > 1]
    if work.degree == 1:
        if not shared:
            return "one GPU" if machine.gpus == 1 else "no other is legal and fits"
        return f"{best.step:.3g} s a step; sharing prompts takes {min(shared):.3g} s"
    if not alone:
        least = min(plan.gib for plan in plans if plan.work.degree == 1)
        return f"a prompt alone on its GPU would need {least:.0f} GiB"
    idle = f", with {work.prompts} prompts on {machine.gpus} GPUs" if work.prompts < machine.gpus else ""
    return f"{best.step:.3g} s a step; a prompt alone on its GPU takes {min(alone):.3g} s{idle}"


def too_small(shape: Shape, least: Plan, degree: int | None) -> str:
    """What takes the most in the smallest plan, and settings that would make it fit."""
    largest = sorted(least.memory.items(), key=lambda part: -part[1])[:3]
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest)
    found = []
    for settings, plan in remedies(shape, least.work, least.machine, degree):
        host = host_bytes(shape, plan.work, plan.machine.gpus) / GIB
        words = " ".join(f"{name}={value}" for name, value in settings.items())
        found.append(f"{words} ({plan.gib:.0f} GiB{f', and {host:.0f} GiB of the host' if host else ''})")
    return (
        f"nothing fits {least.machine.gpus} x {least.machine.gib:.0f} GiB: the smallest plan (degree "
        f"{least.work.degree}) needs {least.gib:.0f} GiB on each, most of it {parts}. "
        + (f"What fits: {'; or '.join(found)}" if found else "Take more GPUs or fewer frames")
    )


def remedies(
    shape: Shape, work: Work, machine: Machine, degree: int | None = None
) -> Iterator[tuple[dict[str, Any], Plan]]:
    """Settings with which a step that does not fit would, and the smallest plan with them.

    The mildest that trains all weights, then the mildest with LoRA; the rollout engine sleeps in the update.
    """
    adapters: dict[str, Any] = {"lora_rank": RANK, "lora_targets": tuple(shape.linear_layers)}
    for lora in ({}, adapters) if not work.lora_rank else ({},):
        for fewer, (settings, changes) in product((False, True), ROOM):
            told = {f"rl.{name}": value for name, value in settings.items() if getattr(work, name) != value}
            told |= {} if work.sleep else {"rl.rollout.sleep": "true"}
            told |= {"rl.lora.rank": RANK} if lora else {}
            prompts = min(work.prompts, machine.gpus)
            smaller: dict[str, Any] = {"prompts": prompts} if fewer else {}
            told |= {"rl.prompts_per_step": prompts} if fewer else {}
            changed = replace(work, sleep=True, **changes, **lora, **smaller)
            plan = min(layouts(shape, changed, machine, degree), key=lambda plan: plan.gib)
            if plan.fits():
                yield told, plan
                break


def work_of(config: PipelineConfig, shape: Shape, frames: int | None = None) -> Work:
    """The RL step of a recipe, with another number of frames if given."""
    number = frames or config.frames.budget
    seen = (number, config.frames.height, config.frames.width)
    video = shape.video_tokens(*seen)
    sound = shape.sound_rate * number if config.frames.audio != "none" else 0  # as if a frame were a second
    rl = config.rl
    return Work(
        prompt=video + sound + shape.stamps(number) + TEXT,
        video=video,
        response=rl.max_tokens,
        group=rl.group_size,
        prompts=rl.prompts_per_step,
        frames=seen,
        number_bytes=4 if rl.dtype == "float32" else 2,
        zero_stage=rl.zero_stage,
        reference=rl.kl > 0,
        offload=rl.offload,
        sleep=rl.rollout.sleep,
        lora_rank=rl.lora.rank,
        lora_targets=rl.lora.target_modules,
    )


def plan(
    config: PipelineConfig,
    machine: Machine,
    frames: int | None = None,
    degree: int | None = None,
) -> str:
    """The plan of a recipe in words and figures. Raises as `choose` and `shape_of` do."""
    shape = shape_of(config.model)
    return describe(shape, choose(shape, work_of(config, shape, frames), machine, degree))


def kept(work: Work) -> str:
    """What a step keeps of its layers, in two words."""
    words = {"none": "all activations", "recompute": "inputs, recompute", "offload": "inputs on the host"}
    return words[work.checkpointing] + (f", {work.tiles} tiles" if work.tiles > 1 else "")


def describe(shape: Shape, plan: Plan) -> str:
    """A plan as a person reads it."""
    work, machine = plan.work, plan.machine
    number, height, width = work.frames
    host = host_bytes(shape, work, machine.gpus)
    on_host = {"none": "", "optimizer": ", optimizer on the host", "all": ", optimizer and weights on the host"}[
        work.offload
    ]
    seen = f"{number:,} frames of {height}x{width}: {work.video:,} video tokens, " if work.video else "text alone, "
    legal = ", ".join(map(str, legal_degrees(machine.gpus, shape.heads)))
    trained = f"LoRA of rank {work.lora_rank} on {', '.join(work.lora_targets)}" if work.lora_rank else "all weights"
    lines = [
        f"{seen}prompts of {work.prompt:,}",
        f"{work.prompts} prompts x {work.group} responses of up to {work.response:,} tokens on "
        f"{machine.gpus} x {machine.gib:.0f} GiB, ZeRO-{work.zero_stage}{on_host}"
        f"{', rollout engine asleep in the update' * work.sleep}",
        f"trained: {trained}, {work.trained(shape):,} of {shape.parameters + work.adapters(shape):,} parameters",
        f"sequence parallel: {work.degree} ({plan.reason}); legal with {shape.heads} query heads on {machine.gpus} "
        f"GPU{'s' * (machine.gpus > 1)}: {legal}",
        f"checkpointing: {work.checkpointing}, feed-forward in {work.tiles} part{'s' * (work.tiles > 1)}",
        f"to run it so: rl.ranks={machine.gpus} rl.sequence_parallel={work.degree} "
        f"rl.gradient_checkpointing={work.checkpointing} rl.mlp_tiles={work.tiles}",
        "",
        f"{'what fits':<30}{'degree':>6}{'GiB on each':>16}{'seconds a step':>18}",
        *(
            f"  {kept(other.work):<28}{other.work.degree:>6}{other.gib:>16.1f}{other.step:>18.3g}"
            f"{'' if other.fits() else '   does not fit'}"
            for other in layouts(shape, work, machine)
        ),
        "",
        "GiB on each GPU",
        *(f"  {name:<22}{size / GIB:10.3f}" for name, size in plan.memory.items() if size),
        f"  {'total':<22}{plan.gib:10.3f}   of {machine.gib:.0f}",
        *([f"  {'on the host, of all':<22}{host / GIB:10.3f}"] if host else []),
        "",
        "seconds of a step",
        *(f"  {name:<22}{value:10.3f}" for name, value in plan.seconds.items() if value),
        f"  {'total, videos cached':<22}{plan.step:10.3f}",
        "",
        f"reckoned with {machine.tflops:.4g} TFLOP/s of one large matrix product, {machine.memory_gbs:,.0f} GB/s of "
        f"memory, {machine.link_gbs:,.0f} GB/s between GPUs, {machine.host_gbs:,.0f} GB/s to the host",
    ]
    return "\n".join(lines)
