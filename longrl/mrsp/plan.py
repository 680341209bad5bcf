"""`longrl plan`: memory and seconds of an RL step before it is run, and the sequence-parallel degree that suits it.

A degree of sequence parallelism is legal when it divides the GPUs and the query heads. It shares one group's tokens
over its ranks, but takes those ranks from data parallelism and pays two all-to-alls a layer and pass (Ulysses,
arXiv:2309.14509). So it is chosen where memory asks for it, or where there are fewer prompts than GPUs and sharing
saves more than it costs: among the plans that fit, the fastest is taken, and of equals the one of the lowest degree.
The arithmetic is in `longrl.mrsp.costs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

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

    Raises `DegreeError` for an illegal degree, and `PlanError` when nothing fits, naming the largest parts and what
    would help.
    """
    if degree is not None:
        check_degree(degree, machine.gpus, shape.heads)
    plans = [
        laid_out(shape, replace(work, degree=d, checkpointing=kept, tiles=tiles), machine)
        for d in ([degree] if degree else legal_degrees(machine.gpus, shape.heads))
        for kept, tiles in LIGHTER
    ]
    fitting = [plan for plan in plans if plan.fits()]
    if not fitting:
        raise PlanError(too_small(min(plans, key=lambda plan: plan.gib)))
    best = min(fitting, key=lambda plan: (plan.step, plan.work.degree))
    return replace(best, reason="as asked" if degree else reason(best, plans))


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


def too_small(least: Plan) -> str:
    largest = sorted(least.memory.items(), key=lambda part: -part[1])[:3]
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest)
    return (
        f"nothing fits {least.machine.gpus} x {least.machine.gib:.0f} GiB: the smallest plan (degree "
        f"{least.work.degree}) needs {least.gib:.0f} GiB on each, most of it {parts}. Take more GPUs, a higher "
        "rl.zero_stage, rl.offload=optimizer, a rollout engine that sleeps (rl.rollout.sleep=true), or fewer frames"
    )


def work_of(config: PipelineConfig, shape: Shape, frames: int | None = None) -> Work:
    """The RL step of a recipe, with another number of frames if given."""
    number = frames or config.frames.budget
    seen = (number, config.frames.height, config.frames.width)
    video = shape.video_tokens(*seen)
    sound = shape.sound_rate * number if config.frames.audio != "none" else 0  # as if a frame were a second
    rl = config.rl
    return Work(
        prompt=video + sound + TEXT,
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


def describe(shape: Shape, plan: Plan) -> str:
    """A plan as a person reads it."""
    work, machine = plan.work, plan.machine
    number, height, width = work.frames
    host = host_bytes(shape, work, machine.gpus)
    on_host = {"none": "", "optimizer": ", optimizer on the host", "all": ", optimizer and weights on the host"}[
        work.offload
    ]
    lines = [
        f"{number:,} frames of {height}x{width}: {work.video:,} video tokens, prompts of {work.prompt:,}",
        f"{work.prompts} prompts x {work.group} responses of up to {work.response:,} tokens on "
        f"{machine.gpus} x {machine.gib:.0f} GiB, ZeRO-{work.zero_stage}{on_host}"
        f"{', rollout engine asleep in the update' * work.sleep}",
        f"sequence parallel: {work.degree} ({plan.reason})",
        f"checkpointing: {work.checkpointing}, feed-forward in {work.tiles} part{'s' * (work.tiles > 1)}",
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
