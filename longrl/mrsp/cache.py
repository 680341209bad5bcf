"""Video embeddings on disk, computed once for rollouts, training forwards, epochs and evaluation.

    <folder>/<2 digits>/<video id>/<plan>-<tower>-<dtype>.safetensors

A key says everything an embedding depends on: the video's bytes, the frame plan, the vision tower's weights and the
dtype. Files appear by rename, so a reader finds a whole file or none; a file that does not open, or does not hold what
its key says, is deleted, counted and encoded again.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longrl.models.chat import Grid


@dataclass(frozen=True)
class EmbeddingKey:
    """What an embedding was made from."""

    video_id: str  # sha256 of the file's bytes
    plan: str  # FramePlan.digest
    tower: str  # qwen2_5_vl.tower_digest
    dtype: str  # "float32", "bfloat16"


@dataclass(frozen=True)
class VideoEmbeds:
    """What the language model sees of a video: (t * h * w / merge², H), with its patch grid."""

    embeds: Tensor
    grid: Grid


class EmbeddingCache:
    """A folder of embeddings, safe for several processes; `hits`, `misses`, `corrupt` count this process's look-ups."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.hits = self.misses = self.corrupt = 0

    def path(self, key: EmbeddingKey) -> Path:
        """Where this embedding lies, if it is there."""
        name = f"{key.plan}-{key.tower}-{key.dtype}.safetensors"
        return self.folder / key.video_id[:2] / key.video_id / name

    def get(self, key: EmbeddingKey) -> VideoEmbeds | None:
        """The embedding, or None when it must be computed."""
        path = self.path(key)
        try:
            with safe_open(path, "pt") as file:
                embeds, grid = file.get_tensor("embeds"), tuple(file.get_tensor("grid").tolist())
        except FileNotFoundError:
            self.misses += 1
            return None
        except (SafetensorError, OSError, ValueError):
            self._discard(path)
            return None
        if str(embeds.dtype) != f"torch.{key.dtype}" or len(grid) != 3 or not torch.isfinite(embeds).all():
            self._discard(path)
            return None
        self.hits += 1
        return VideoEmbeds(embeds, grid)

    def put(self, key: EmbeddingKey, video: VideoEmbeds) -> None:
        """Store an embedding; of several writers one wins, and all wrote the same."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"embeds": video.embeds.detach().cpu().contiguous(), "grid": torch.tensor(video.grid)}
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        os.close(handle)
        try:
            save_file(content, temporary)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _discard(self, path: Path) -> None:
        self.corrupt += 1
        self.misses += 1
        path.unlink(missing_ok=True)
