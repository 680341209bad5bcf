"""How the trainer's weights get into a running vLLM: two backends of vLLM's weight-transfer API.

`IN_PROCESS` takes tensors of this process. `SHARED_FILE` reads a safetensors file from a folder that trainer and server
share; vLLM's own NCCL backend needs GPUs on both sides, this one a file system (`/dev/shm`: memory of the machine).
Both load Hugging Face's names and shapes over the model's own weights, sharded or packed as vLLM keeps them.

Importing this module registers both; a server's workers import it because `Worker` is named as their extension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import base
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader import reload

from longrl.rollout.packed import PackedLoading

IN_PROCESS, SHARED_FILE = "longrl_in_process", "longrl_shared_file"


@dataclass
class Nothing(base.WeightTransferInitInfo):
    """Neither backend has a connection to set up."""


@dataclass
class Tensors(base.WeightTransferUpdateInfo):
    """Names and tensors of a Hugging Face state dictionary."""

    weights: Iterable[tuple[str, Tensor]] = field(default_factory=list)


@dataclass
class File(base.WeightTransferUpdateInfo):
    """A safetensors file that holds them."""

    path: str = ""


class Reload(base.WeightTransferEngine[Any, Any]):
    """Loads a Hugging Face state dictionary over the model's weights, wherever it comes from."""

    init_info_cls = Nothing
    _packed: PackedLoading | None = None  # on the CPU

    def init_transfer_engine(self, init_info: Nothing) -> None:
        pass

    def start_weight_update(self) -> None:
        if self.device.type == "cpu":
            self._packed = self._packed or PackedLoading(self.model)
            self._packed.begin()
        else:
            reload.initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        if self._packed:
            self._packed.finish()
        else:
            reload.finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


class InProcess(Reload):
    """Weights that lie in this process."""

    update_info_cls = Tensors

    def receive_weights(self, update_info: Tensors) -> None:
        model: Any = self.model
        model.load_weights(update_info.weights)


class SharedFile(Reload):
    """Weights in a file, read one tensor at a time."""

    update_info_cls = File

    def receive_weights(self, update_info: File) -> None:
        model: Any = self.model
        model.load_weights(self._tensors(update_info.path))

    def _tensors(self, path: str) -> Iterator[tuple[str, Tensor]]:
        with safe_open(path, "pt", device=str(self.device)) as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                yield name, file.get_tensor(name)


class Worker:
    """vLLM's `--worker-extension-cls`: brings this module, and with it the backends, into the server's workers."""


for name, backend in ((IN_PROCESS, InProcess), (SHARED_FILE, SharedFile)):
    if name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(name, backend)
