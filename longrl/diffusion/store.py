"""What a batch of rollouts leaves for the update: states and logprobs, in the host's memory or, when large, on disk.

A clip of Wan at 480 x 832 x 81 leaves 3.3 million numbers a state; a window of two steps and 192 samples are 7 GiB.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from longrl.diffusion.sampler import Trajectory
from longrl.training.rank import TrainingError


class Store:
    """Trajectories of samples by number. What goes beyond `limit` bytes lies in `folder`, a file a sample."""

    def __init__(self, folder: Path, limit: float):
        self.folder, self.limit = folder, limit
        self.host = self.disk = 0  # bytes
        self._held: dict[int, dict[str, Tensor]] = {}
        self.clear()

    def put(self, numbers: list[int], drawn: Trajectory) -> None:
        """Keep the trajectories of these samples, a row of `drawn` each; raises `TrainingError` on a full disk."""
        for row, number in enumerate(numbers):
            own = {"states": drawn.states[row].cpu().clone(), "logprobs": drawn.logprobs[row].cpu().clone()}
            size = sum(tensor.numel() * tensor.element_size() for tensor in own.values())
            if self.host + size <= self.limit:
                self._held[number] = own
                self.host += size
                continue
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_file(own, self._file(number))
            except OSError as error:
                raise TrainingError(
                    f"rollouts can't be kept in {self.folder}: {error}; free space, raise rl.host_gib, or lower "
                    "rl.prompts_per_step or rl.sampling.window"
                ) from error
            self.disk += size

    def get(self, number: int) -> tuple[Tensor, Tensor]:
        """States (W + 1, ...) and logprobs (W,) of a sample."""
        own = self._held.get(number) or load_file(self._file(number))
        return own["states"], own["logprobs"]

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self.host = self.disk = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"
