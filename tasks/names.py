"""Names of task runs that say what they do: `caption · 3f9a12bc · 24 clips`."""

from __future__ import annotations

import os
from typing import Any

from longrl.warehouse.artifacts import ArtifactRef

# Of each stage: the parameter that holds what it works on, and what one row of that is.
WORKS_ON = {
    "segment": ("videos", "videos"),
    "caption": ("clips", "clips"),
    "reason": ("captions", "captions"),
    "verify": ("questions", "questions"),
    "curate": ("questions", "questions"),
    "imported": ("videos", "videos"),
    "difficulty": ("dataset", "questions"),
    "evaluate": ("dataset", "questions"),
    "conditioning": ("prompts", "prompts"),
    "compare": ("prompts", "prompts"),
}


def run_name(stage: str, parameters: dict[str, Any]) -> str:
    """The name of a stage's run from what it is called with: the key of its main input and how much that is.

    >>> clips = ArtifactRef("segment", "3f9a12bc00000000", "/w/segment/3f9a12bc", "digest", rows=24)
    >>> run_name("caption", {"clips": clips})
    'caption · 3f9a12bc · 24 clips'
    """
    settings = parameters.get("settings")
    seed = f"seed {parameters.get('seed', 0)}"
    match stage:
        case "stories" if settings:
            parts = [seed, f"{settings.count} stories"]
        case "ingest" if "folder" in parameters:
            parts = [os.path.basename(os.path.normpath(parameters["folder"]))]
        case "model" if settings:
            parts = [os.path.basename(os.path.normpath(settings.path)) if settings.path else f"tiny, {seed}"]
        case "pretrain" | "sft" if settings:
            parts = [key(parameters["dataset"]), f"{sum(phase.steps for phase in settings.phases)} steps"]
        case "rl" if settings:
            parts = [key(parameters["dataset"]), settings.algorithm, f"{settings.steps} steps"]
        case "generator" if settings:
            parts = [os.path.basename(os.path.normpath(settings.path)) if settings.path else f"tiny, {seed}"]
        case "flowmatch" | "flowgrpo" if settings:
            parts = [key(parameters["prompts"]), f"{settings.steps} steps"]
        case _:
            name, unit = WORKS_ON.get(stage, ("", ""))
            ref = parameters.get(name)
            parts = [key(ref), f"{ref.rows} {unit}"] if isinstance(ref, ArtifactRef) else []
            if stage == "evaluate" and "models" in parameters:
                parts.append(", ".join(parameters["models"]))
    return " · ".join([stage, *parts])


def key(ref: ArtifactRef) -> str:
    """The first half of an artifact's key, enough to tell it from others."""
    return ref.key[:8]
