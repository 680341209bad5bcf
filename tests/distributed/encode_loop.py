"""Ranks of test_encode: fill a cache together; each tells how many videos it encoded and what could not be decoded."""

from pathlib import Path

import torch

from longrl.models import families
from longrl.mrsp import encode
from longrl.mrsp.cache import EmbeddingCache
from longrl.training.engine import join
from longrl.video.decode import FrameCache
from longrl.video.sample import FramePlan


def main(job, messages):
    rank, _ = join("cpu")
    encode.PATCHES = job["patches"]
    wanted = [(name, path, FramePlan(tuple(times), *size)) for name, path, times, size in job["wanted"]]
    for dtype in ("float32", "bfloat16"):
        student = families.load(job["model"], getattr(torch, dtype))
        cache = EmbeddingCache(Path(job["folder"]) / "embeds")
        for again in (False, True):
            broken = encode.encode_together(student, cache, FrameCache(job["frames"]), wanted)
            messages.send("done", rank=rank, dtype=dtype, again=again, encodes=cache.encodes, broken=broken)
