"""Video embeddings on disk, computed once for rollouts, training forwards, epochs and evaluation.

    <folder>/<2 digits>/<video id>/<plan>-<tower>-<dtype>.safetensors

A key says everything an embedding depends on: the video's bytes, the frame plan, the vision tower's weights and the
dtype. Files appear by rename, so a reader finds a whole file or none. They are read memory-mapped: processes share
their pages, and a tensor outlives its file. The first time a process reads a file it checks the sum over its bytes; a
file that does not open, or does not hold what its key says, is deleted, counted and encoded again. The folder is kept
below a size (see `eviction`).
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longrl.errors import LongrlError
from longrl.models.prompt import Grid
from longrl.mrsp.eviction import ENDING, Pins, evict

log = logging.getLogger(__name__)

SLACK = 16  # the folder's size is looked at whenever this process has written the limit's 16th part


class CacheError(LongrlError):
    """An embedding can't be stored; the message names the folder and the remedy."""


@dataclass(frozen=True)
class EmbeddingKey:
    """What an embedding was made from."""

    video_id: str  # sha256 of the file's bytes
    plan: str  # FramePlan.digest
    tower: str  # Student.tower_digest
    dtype: str  # "float32", "bfloat16"


@dataclass(frozen=True)
class VideoEmbeds:
    """What the language model sees of a video, an image or a sound: (tokens, W), with its patch grid."""

    embeds: Tensor
    grid: Grid


class EmbeddingCache:
    """A folder of embeddings, safe for several processes.

    `hits`, `misses` and `corrupt` count this process's look-ups, `encodes` what it stored. Over `limit_gib` the least
    recently used embeddings go, those of living processes excepted; without a limit nothing does.
    """

    def __init__(self, folder: str | Path, limit_gib: float | None = None):
        self.folder = Path(folder)
        self.limit = None if limit_gib is None else limit_gib * 2**30
        self.hits = self.misses = self.corrupt = self.encodes = 0
        self._pins = Pins(self.folder)
        self._unseen: float | None = None  # bytes written since the folder's size was looked at

    def path(self, key: EmbeddingKey) -> Path:
        """Where this embedding lies, if it is there."""
        name = f"{key.plan}-{key.tower}-{key.dtype}{ENDING}"
        return self.folder / key.video_id[:2] / key.video_id / name

    def get(self, key: EmbeddingKey) -> VideoEmbeds | None:
        """The embedding, memory-mapped, or None when it must be computed."""
        path = self.path(key)
        first = self._pins.add(path)
        try:
            with safe_open(path, "pt") as file:
                embeds, grid = file.get_tensor("embeds"), tuple(file.get_tensor("grid").tolist())
                total = (file.metadata() or {}).get("crc32")
        except FileNotFoundError:
            self.misses += 1
            return None
        except (SafetensorError, OSError, ValueError):
            self._discard(path)
            return None
        if str(embeds.dtype) != f"torch.{key.dtype}" or len(grid) != 3 or (first and total != checksum(embeds)):
            self._discard(path)
            return None
        if first:
            with suppress(OSError):  # another user's file: it keeps its place among the least recently used
                os.utime(path)
        self.hits += 1
        return VideoEmbeds(embeds, grid)

    def put(self, key: EmbeddingKey, video: VideoEmbeds) -> None:
        """Store an embedding; of several writers one wins, and all wrote the same.

        On a full disk all that no process uses makes way. Raises `CacheError` when that is not enough, when the folder
        can't be written, and when the embedding isn't finite.
        """
        embeds = video.embeds.detach().cpu().contiguous()
        if not torch.isfinite(embeds).all():
            raise CacheError(
                f"the embedding of video {key.video_id} is not finite: the vision tower is broken; "
                "train it with a lower learning rate"
            )
        path = self.path(key)
        self._pins.add(path)
        self._make_room(embeds.nbytes)
        try:
            try:
                self._write(path, embeds, video.grid)
            except (OSError, SafetensorError) as error:
                if not disk_is_full(error) or not evict(self.folder, 0)[0]:
                    raise
                self._write(path, embeds, video.grid)
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"cannot store the embedding of video {key.video_id} in {self.folder}: {error}; free space there, "
                "or choose WAREHOUSE=/path"
            ) from error
        self.encodes += 1

    def _write(self, path: Path, embeds: Tensor, grid: Grid) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        os.close(handle)
        try:
            save_file({"embeds": embeds, "grid": torch.tensor(grid)}, temporary, {"crc32": checksum(embeds)})
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Keep the folder below the limit, looking at all of it at the first call and then from time to time."""
        if self.limit is None:
            return
        if self._unseen is None or self._unseen + size > self.limit / SLACK:
            _, left = evict(self.folder, self.limit - size)
            if left + size > self.limit:
                log.warning(
                    "the embeddings that running jobs use take %.1f GiB, more than frames.embedding_cache_gib (%.1f) "
                    "allows; none of them is deleted",
                    (left + size) / 2**30,
                    self.limit / 2**30,
                )
            self._unseen = 0.0
        self._unseen += size

    def _discard(self, path: Path) -> None:
        self.corrupt += 1
        self.misses += 1
        path.unlink(missing_ok=True)


def checksum(embeds: Tensor) -> str:
    """CRC-32 of a tensor's bytes, in hexadecimal."""
    return f"{zlib.crc32(embeds.view(torch.uint8).numpy().data):08x}"


def disk_is_full(error: Exception) -> bool:
    """Whether a file could not be written for want of space; safetensors tells the number in words only."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in numbers or any(f"os error {number}" in str(error) for number in numbers)
