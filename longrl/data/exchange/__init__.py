"""The dataset in other projects' formats, and theirs here: one file a format, each with its `FORMAT`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longrl.data.exchange.records import Format


def formats() -> dict[str, Format]:
    """Each format by the name that `FORMAT=` and `longrl export` take."""
    from longrl.data.exchange import huggingface, llava, longvideo_reason, video_r1

    return {
        "huggingface": huggingface.FORMAT,
        "llava": llava.FORMAT,
        "longvideo-reason": longvideo_reason.FORMAT,
        "video-r1": video_r1.FORMAT,
    }
