"""All that training knows of the weights, read from and put into DeepSpeed whatever ZeRO stage and ranks hold it.

Three float32 numbers a trained weight: the weight itself ("weight") and AdamW's two moments ("exp_avg", "exp_avg_sq");
and the number of updates. A file of a checkpoint holds whole tensors by parameter name, so that any number of ranks
under any stage and offload can read it:

    state-000.safetensors: exp_avg.<parameter>, exp_avg_sq.<parameter>, weight.<parameter>, ...

DeepSpeed's own checkpoints keep the shards as they lie, need a conversion to be read by another number of ranks, and
leave out what is frozen at some stages. Frozen weights are not written at all: they are those of the model that the
run started from. No more than `SHARD` weights are gathered before a file is written, each file by one rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import utils
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from longrl.training.rank import TrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")
SHARD = 2**27  # weights in one file, 1.5 GiB
REMEDY = "delete that folder to go on from the checkpoint before it, or from the stage's beginning"


class OptimizerState:
    """The state of `parameters` (by name) in a DeepSpeed engine; every rank calls every method."""

    def __init__(self, engine: Any, parameters: dict[str, nn.Parameter]):
        self.parameters = parameters
        self._zero, self._adam = engine.optimizer, engine.basic_optimizer
        self._masters: dict[int, Tensor] = {}  # of weights that lie whole on every rank
        if self._zero is self._adam:
            self._masters = {id(parameter): parameter for parameter in parameters.values()}
        elif hasattr(self._zero, "fp16_groups") and hasattr(self._zero, "fp32_groups"):  # bfloat16 at stage 0
            for low, full in zip(self._zero.fp16_groups, self._zero.fp32_groups, strict=True):
                self._masters |= {id(a): b for a, b in zip(low, full, strict=True)}
        self._begin()

    def save(self, folder: Path) -> int:
        """Write the files; returns the number of updates so far.

        Raises the `OSError` or `SafetensorError` of a file this rank could not write, after the last collective.
        """
        failure: Exception | None = None
        for number, names in enumerate(self._shards()):
            mine = number % dist.get_world_size() == dist.get_rank()
            tensors: dict[str, Tensor] = {}
            for name in names:
                for kind in ("weight", *MOMENTS):
                    whole = self._read(self.parameters[name], kind)
                    if mine and failure is None:
                        tensors[f"{kind}.{name}"] = whole.detach().cpu().contiguous()
            if tensors:
                try:
                    save_file(tensors, folder / f"state-{number:03d}.safetensors")
                except (OSError, SafetensorError) as error:
                    failure = error
        if failure:
            raise failure
        return max(int(state["step"]) for state in self._adam.state.values())

    def load(self, folder: Path, updates: int) -> None:
        """Put the state of the files in place of the present one.

        Raises `TrainingError` when a file is damaged or of another model; the present state may then be half replaced.
        """
        try:
            with ExitStack() as stack:
                files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("state-*"))]
                held = {key.split(".", 1)[1]: file for file in files for key in file.keys()}  # noqa: SIM118
                if held.keys() != self.parameters.keys():
                    odd = min(held.keys() ^ self.parameters.keys())
                    raise TrainingError(f"{folder} is of another model: {odd} is in one of the two only; {REMEDY}")
                for name, parameter in self.parameters.items():
                    for kind in ("weight", *MOMENTS):
                        self._write(parameter, kind, held[name].get_tensor(f"{kind}.{name}"))
        except SafetensorError as error:
            raise TrainingError(f"{folder} is damaged: {error}; {REMEDY}") from error
        for state in self._adam.state.values():
            state["step"].fill_(updates)
        self._publish()

    def _shards(self) -> Iterator[list[str]]:
        """Names of parameters in files of at most `SHARD` weights, at least one."""
        names: list[str] = []
        size = 0
        for name, parameter in self.parameters.items():
            more = int(getattr(parameter, "ds_numel", parameter.numel()))
            if names and size + more > SHARD:
                yield names
                names, size = [], 0
            names.append(name)
            size += more
        yield names

    def _begin(self) -> None:
        """Make the moments that AdamW would make at its first update: DeepSpeed looks for them once, and only then."""
        for group in self._adam.param_groups:
            for parameter in self._flat() or group["params"]:
                device = parameter.device if group["fused"] else "cpu"
                state = {kind: torch.zeros_like(parameter, requires_grad=False) for kind in MOMENTS}
                self._adam.state[parameter] = {"step": torch.zeros((), dtype=torch.float32, device=device)} | state
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[Tensor]:
        """Stage 3 lends AdamW its partitions only while a step lasts."""
        return list(getattr(self._zero, "fp32_partitioned_groups_flat", ()))

    def _read(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """The whole tensor, float32, on every rank."""
        if (master := self._masters.get(id(parameter))) is not None:
            return master if kind == "weight" else self._adam.state[master][kind]
        if kind == "weight":
            return utils.safe_get_full_fp32_param(parameter)
        return utils.safe_get_full_optimizer_state(parameter, kind)

    def _write(self, parameter: nn.Parameter, kind: str, whole: Tensor) -> None:
        """Put this rank's part of a whole tensor in its place."""
        with torch.no_grad():
            if (master := self._masters.get(id(parameter))) is not None:
                (master if kind == "weight" else self._adam.state[master][kind]).copy_(whole)
            elif hasattr(parameter, "ds_tensor"):
                size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)  # type: ignore[attr-defined]
                part = whole.flatten()[size * rank : size * (rank + 1)]
                part = nn.functional.pad(part, (0, size - part.numel()))  # the last rank's part may reach past the end
                if kind == "weight":
                    utils.safe_set_local_fp32_param(parameter, part)
                else:
                    utils.safe_set_local_optimizer_state(parameter, part, kind)
            elif kind == "weight":
                utils.safe_set_full_fp32_param(parameter, whole)
            else:
                utils.safe_set_full_optimizer_state(parameter, whole, kind)

    def _publish(self) -> None:
        """Let the weights that the model computes with follow the float32 ones."""
        with torch.no_grad():
            for parameter in self.parameters.values():
                master = self._masters.get(id(parameter))
                if master is not None and master is not parameter:
                    parameter.copy_(master)
        if flat := self._flat():
            for group in range(len(flat)):
                self._zero._reassign_or_swap_out_partitioned_parameters(group)
            if persistent := self._zero.persistent_parameters:  # small ones, kept whole on every rank
                persistent[0].partition(persistent)
                persistent[0].all_gather(persistent)
        elif hasattr(self._zero, "update_lp_params"):
            self._zero.update_lp_params()
