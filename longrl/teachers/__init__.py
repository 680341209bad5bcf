"""Who captions clips and who writes questions.

`measured` needs no model: it measures frames and composes questions whose answers are facts of those measurements.
`openai` asks any OpenAI-compatible server. Both keep to the interfaces in `longrl.teachers.base`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from longrl.teachers.base import Captioner, Look, Writer

if TYPE_CHECKING:  # worker processes import this package and start faster without the configuration
    from longrl.config import CaptionSettings, ReasonSettings


def captioner(settings: CaptionSettings, batches: Path) -> Captioner:
    """The captioner the settings ask for; `batches` is the folder of its files of requests in batch mode."""
    if settings.teacher == "openai":
        from longrl.teachers.openai import OpenAICaptioner

        return OpenAICaptioner(settings, batches)
    from longrl.teachers.measured import MeasuredCaptioner

    return MeasuredCaptioner(Look(settings.frames_per_clip, settings.size), settings.workers, settings.listen)


def writer(settings: ReasonSettings, batches: Path) -> Writer:
    """The writer the settings ask for; `batches` is the folder of its files of requests in batch mode."""
    if settings.teacher == "openai":
        from longrl.teachers.openai import OpenAIWriter

        return OpenAIWriter(settings, batches)
    from longrl.teachers.measured import MeasuredWriter

    return MeasuredWriter()
