"""Stage `prompts`: what generators are trained and compared on, with the split of what no training sees."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from longrl.config import GeneratorSettings, PromptSettings
from longrl.diffusion import world
from longrl.errors import LongrlError
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 1


class PromptError(LongrlError):
    """There is nothing to draw; the message names the file and what is wrong with it."""


def prompts(settings: PromptSettings, generator: GeneratorSettings, warehouse: Warehouse, seed: int) -> ArtifactRef:
    """Read `settings.path`, or take the rendered world's prompts: a row a prompt, each once, in split train or eval.

    Empty, overlong and repeated prompts are rejects. Raises `PromptError` for a file that can't be read or in which
    fewer than two prompts are left.
    """
    moving = generator.frames > 1
    source = Path(settings.path).expanduser() if settings.path else None
    inputs = {"file": fingerprint(source)} if source else {"world": "moving" if moving else "still"}

    def build(draft: Draft) -> None:
        rows = read(source) if source else ((scene.prompt, scene.prompt) for scene in world.scenes(moving))
        kept: dict[str, str] = {}
        for item, prompt in rows:
            if fault := why_not(prompt, settings.longest, kept):
                draft.reject(item, *fault)
            elif not settings.limit or len(kept) < settings.limit:
                kept[prompt.strip()] = item
            else:
                draft.reject(item, "limit", f"prompts.limit is {settings.limit}")
        if len(kept) < 2:
            raise PromptError(
                f"{source or 'the rendered world'}: {len(kept)} usable prompts of {len(kept) + draft.rejects}; two are "
                "needed, one of them to be held out. " + told(draft)
            )
        draft.write(split(list(kept), settings.held_out, seed))

    return warehouse.produce("prompts", VERSION, {"settings": settings, "seed": seed}, inputs, build)


def read(path: Path) -> Iterator[tuple[str, str]]:
    """Each line's name and prompt; a line of JSON that has none is an empty prompt."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        item = f"{path.name}:{number}"
        if path.suffix == ".jsonl":
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = {}
            prompt = row.get("prompt") if isinstance(row, dict) else None
            yield item, prompt if isinstance(prompt, str) else ""
        else:
            yield item, line


def why_not(prompt: str, longest: int, kept: dict[str, str]) -> tuple[str, str] | None:
    """The rule and reason that reject a prompt, or None.

    >>> why_not("  ", 100, {}), why_not("a cat", 100, {})
    (('empty', 'there is no prompt'), None)
    """
    text = prompt.strip()
    if not text:
        return "empty", "there is no prompt"
    if len(text) > longest:
        return "too_long", f"{len(text):,} characters, over prompts.longest ({longest:,}); it begins {text[:60]!r}"
    if text in kept:
        return "repeated", f"the same as {kept[text]}"
    return None


def split(texts: list[str], held_out: float, seed: int) -> pl.DataFrame:
    """Rows in the order of the texts; at least one prompt is in each split."""
    order = list(range(len(texts)))
    random.Random(f"{seed} prompts").shuffle(order)
    count = min(max(1, round(held_out * len(texts))), len(texts) - 1)
    held = set(order[:count])
    return pl.DataFrame(
        {
            "prompt_id": [prompt_id(text) for text in texts],
            "prompt": texts,
            "split": ["eval" if number in held else "train" for number in range(len(texts))],
        }
    )


def prompt_id(text: str) -> str:
    """The first 16 hex digits of a prompt's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """sha256 of the file; raises `PromptError` when it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PromptError(
            f"prompts.path={path} can't be read: {error.strerror}; give a file with one prompt a line, or JSON lines"
        ) from error


def told(draft: Draft) -> str:
    """How many prompts each rule rejected."""
    counts = draft.rejected_by_rule()
    return "Rejected: " + (", ".join(f"{count} {rule}" for rule, count in counts.items()) or "none")
