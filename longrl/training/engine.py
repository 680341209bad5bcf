"""The one DeepSpeed engine behind SFT and RL: ZeRO 0-3, any number of ranks, one of them included.

Where it departs from a DeepSpeed script as usually written:
1. A token weighs the same wherever it was computed. DeepSpeed averages gradients over ranks, so a loss must be
   (sum over this rank's tokens) / (tokens of all ranks) * ranks; `share` returns that factor.
2. The engine is called with a function (`engine.loss(function)`), since a step may be several shared-prefix forwards
   of parts of the model; ZeRO-3's hooks need them inside the engine's forward.
3. A loss that isn't finite on any rank is skipped on all: no rank waits for a collective that another left out, and
   the optimizer's moments stay clean.
4. Nothing is compiled at run time: the client's torch AdamW is used, also where its state is offloaded to the CPU (its
   fused CPU kernel takes the place of DeepSpeed's CPUAdam), and the shared-memory collectives aren't built.
5. Checkpoints hold whole tensors by name (see `state`), so a run may go on with another number of ranks, ZeRO stage or
   offload.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from longrl.config import EngineSettings
from longrl.mrsp.ulysses import Shards
from longrl.training.rank import TrainingError
from longrl.training.state import OptimizerState

T = TypeVar("T")
PATIENCE = 5  # skipped steps in a row before training is given up


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: float) -> float:
    """Rate of step 1..`steps` of a phase: linear warm-up over `warmup` steps, then level, then over the last `decay`
    share of the phase a line down to a tenth.

    >>> [round(learning_rate(step, 10, 1.0, 2, 0.5), 2) for step in (1, 2, 5, 10)]
    [0.5, 1.0, 1.0, 0.1]
    """
    rise = min(1.0, step / warmup) if warmup else 1.0
    tail = round(steps * decay)
    into = step - (steps - tail)
    return peak * rise * (1.0 - 0.9 * into / tail if into > 0 else 1.0)


def join(device: str) -> tuple[int, int]:
    """Join the process group; returns (rank, ranks). Call it once, before anything else of DeepSpeed."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else 60 s of C++ compilation
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo", verbose=False)
    return dist.get_rank(), dist.get_world_size()


class Trainee(nn.Module):
    """The model as DeepSpeed sees it: its forward is whatever function it is given."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Tensor]) -> Tensor:
        return function()


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips (where ZeRO doesn't) and leaves everything as it is when a gradient isn't finite on any rank."""

    def __init__(self, *args: Any, clip: float | None, device: torch.device, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clip, self.device = clip, device  # the collectives' device; offloaded gradients lie on another
        self.norm, self.refused = float("nan"), False  # stays until it is set back: stage 3 steps part by part

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.refused = anywhere(self.refused or not torch.isfinite(norm), self.device)
        if self.refused:
            return
        if self.clip is not None:
            self.norm = float(norm)
            if self.norm > self.clip:
                torch._foreach_mul_(gradients, self.clip / (self.norm + 1e-6))
        super().step(closure)


class Engine:
    """A model under DeepSpeed. `share(tokens)` scales the loss, `loss` computes and backs it, `step` updates."""

    def __init__(self, model: nn.Module, settings: EngineSettings, shards: Shards | None = None):
        self.settings, self.model, self.shards = settings, model, shards
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        degree = 1 if shards is None else shards.degree
        self.replica, self.replicas = self.rank // degree, self.ranks // degree  # a sequence-parallel group is one
        self.skipped = 0  # steps left out so far
        self._in_a_row = self._backed = 0
        self._refused = False
        # ZeRO and the bf16 optimizer clip by themselves and know the norm of sharded gradients.
        self._plain = settings.zero_stage == 0 and settings.dtype == "float32"
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        trainable = list(named.values())
        self._optimizer = GuardedAdamW(
            trainable,
            lr=0.0,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self._plain or settings.offload != "none",
            clip=settings.gradient_clipping if self._plain else None,
            device=trainable[0].device,
        )
        trainee = Trainee(model)
        self._engine, *_ = deepspeed.initialize(
            model=trainee, optimizer=self._optimizer, model_parameters=trainable, config=deepspeed_config(settings)
        )
        if self._plain and self.ranks == 1:  # DeepSpeed would copy all gradients together and back
            self._engine.enable_backward_allreduce = False
        self._state = OptimizerState(self._engine, named)
        if settings.zero_stage == 3 and hasattr(model, "get_output_embeddings"):  # used outside of its own module
            deepspeed.zero.register_external_parameter(trainee, model.get_output_embeddings().weight)  # type: ignore[operator]

    def total(self, *values: float) -> list[float]:
        """Sums of these numbers over all ranks, in float64."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    @property
    def device(self) -> torch.device:
        return self._engine.device

    def share(self, tokens: float) -> float:
        """Factor for this rank's sum that makes the averaged gradient a mean over `tokens` global ones.

        `tokens` is as `total` counts them. The ranks of a sequence-parallel group all count the tokens they share, but
        each has only its part of their gradient; hence not `ranks`, but ranks² / replicas.
        """
        return self.ranks / max(tokens, 1e-9) * (self.ranks // self.replicas)

    def loss(self, function: Callable[[], Tensor]) -> float:
        """Compute a scalar loss and accumulate its gradients; every rank calls this equally often in a step.

        Returns the local value. Nothing is accumulated when the loss isn't finite on some rank; `step` then skips.
        """
        loss = self._engine(function)
        if anywhere(not torch.isfinite(loss.detach()), loss.device):
            self._refused = True
        else:
            self._engine.backward(loss)
            self._backed += 1
        return float(loss.detach())

    def step(self, rate: float) -> float | None:
        """Update with this learning rate; returns the gradient norm before clipping, or None when the step is skipped.

        Raises `TrainingError` after `PATIENCE` skipped steps in a row.
        """
        refused, backed = self._refused, self._backed
        self._refused, self._backed = False, 0
        norm = float("nan")
        if backed:
            self._optimizer.refused = refused  # gradients of a half-refused step are used up without effect
            for group in self._engine.optimizer.param_groups:
                group["lr"] = rate
            self._engine.step()
            norm = self._optimizer.norm if self._plain else float(self._engine.get_global_grad_norm() or 0.0)
            refused = self._optimizer.refused or not math.isfinite(norm)  # DeepSpeed leaves out some such steps itself
        if refused or not backed:
            self.skip()
            return None
        self._in_a_row = 0
        return norm

    def skip(self) -> None:
        """Count a step without an update; too many in a row end the training."""
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= PATIENCE:
            raise TrainingError(
                f"{PATIENCE} steps in a row had a loss or reward that is not a finite number; "
                "lower the learning rate or the gradient clipping"
            )

    def look(self, function: Callable[[], T]) -> T:
        """What a function of the model returns, without gradients; every rank calls it.

        It runs inside DeepSpeed's forward: within `whole`, ZeRO-3 takes back a tied head as soon as the embedding has
        been used.
        """
        with torch.no_grad():
            return self._engine(function)

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The model with all its weights on every rank, also under ZeRO-3; every rank enters."""
        if self.settings.zero_stage == 3:
            with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
                yield self.model
        else:
            yield self.model

    def save(self, folder: Path) -> dict[str, Any]:
        """Write weights and moments into `folder`; every rank calls it. Returns what `load` needs beside the files.

        Raises the `OSError` or `SafetensorError` of a file this rank could not write, after the last collective.
        """
        return {"updates": self._state.save(folder), "skipped": self.skipped}

    def load(self, folder: Path, updates: int, skipped: int) -> None:
        """Read what `save` wrote, with any number of ranks, stage and offload; every rank calls it."""
        self._state.load(folder, updates)
        self.skipped = skipped


def anywhere(flag: bool | Tensor, device: torch.device) -> bool:
    """Whether the flag is set on any rank."""
    tensor = torch.tensor(float(flag), device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


def deepspeed_config(settings: EngineSettings) -> dict[str, Any]:
    """DeepSpeed's own configuration; `managed_gradient_accumulation` off means that `step` alone ends a step."""
    plain = settings.zero_stage == 0 and settings.dtype == "float32"
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.offload != "none":
        zero["offload_optimizer"] = host
    if settings.offload == "all":
        zero["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if plain else settings.gradient_clipping,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
