"""The dataset in other projects' formats, and theirs here: one file a format, each with `write` and `read`."""

from __future__ import annotations

from types import ModuleType


def formats() -> dict[str, ModuleType]:
    """The module of each format by the name that `FORMAT=` and `longrl export` take."""
    from longrl.data.exchange import huggingface, llava, longvideo_reason, video_r1

    return {
        "huggingface": huggingface,
        "llava": llava,
        "longvideo-reason": longvideo_reason,
        "video-r1": video_r1,
    }
