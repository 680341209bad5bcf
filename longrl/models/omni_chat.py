"""The prompts of Qwen2.5-Omni: where sound stands beside video, and at which positions.

    <|vision_bos|><|audio_bos|>[2 s of video][2 s of sound][2 s of video] ... <|audio_eos|><|vision_eos|>

TMRoPE (technical report, arXiv:2503.20215, section 2.2): a second is 25 positions of time; a token of sound, 40 ms, is
at its own on all axes. A video with its sound is one slot in which both count from the same start, in turns of two
seconds; the two marks before it share a position, and so do the two after it.

transformers 5.19 takes the turns by their number instead of by time where temporal patches are more than 2 s apart, and
goes on after the last turn instead of after the largest position. vLLM 0.32 counts the mark inside the slot as one of
its tokens, so that all of them are off by one. Elsewhere the three agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from longrl.models.chat import ChatFormat
from longrl.models.prompt import Medium, Slot


class OmniChat(ChatFormat):
    """Qwen's chat with ears. `pace` counts positions a second, `turn` those of a turn of video or sound."""

    PADS: ClassVar[dict[str, str]] = {"video": "<|VIDEO|>", "image": "<|IMAGE|>", "audio": "<|AUDIO|>"}
    MARKS = ("<|vision_bos|>", "<|vision_eos|>")

    def __init__(self, tokenizer: Any, merge: int = 2):
        super().__init__(tokenizer, merge)
        self.ears = self.special("<|audio_bos|>"), self.special("<|audio_eos|>")
        self.pace, self.turn = 25, 50

    def video(self, grid: Sequence[int], second_per_grid: float = 1.0, times: Sequence[float] = ()) -> Medium:
        """A video of this patch grid; its `times` are the patches' positions in time, not seconds."""
        places = torch.arange(grid[0]) * torch.tensor(second_per_grid) * self.pace
        return replace(super().video(grid, second_per_grid), times=tuple(places.tolist()))

    def audio(self, tokens: int) -> Medium:
        """A sound of so many embeddings."""
        return Medium("audio", tokens, (tokens, 1, 1))

    def slot(self, *media: Medium) -> tuple[tuple[int, ...], Slot, tuple[int, ...]]:
        """A sound has marks of its own; a video with its sound is one slot, its inner marks included."""
        start, end = self.ears
        if len(media) == 1:
            before, slot, after = super().slot(*media)
            return ((start,), slot, (end,)) if media[0].kind == "audio" else (before, slot, after)
        film, sound = media
        pads = self.pads["video"], self.pads["audio"]
        each = film.tokens // film.grid[0]
        inside = [
            pad
            for patches, heard in turns(film.times, sound.tokens, self.turn)
            for pad in (*(pads[0],) * (patches * each), *(pads[1],) * heard)
        ]
        first, last = self.marks
        return (first,), Slot(media, pads, (pads[0],), (start, *inside, end, last)), ()


def places(slot: Slot) -> Tensor:
    """Positions (3, tokens) of a slot's expanded tokens, from its first one on.

    A video and its sound count from the same start; the marks inside their slot stand where those outside do.
    """
    film, *sound = slot.media
    if film.kind == "audio":
        return torch.arange(film.tokens).expand(3, -1)
    t, h, w = film.grid
    merge = math.isqrt(t * h * w // film.tokens)
    time = torch.tensor(film.times or [0] * t).long()
    axes = torch.meshgrid(time, torch.arange(h // merge), torch.arange(w // merge), indexing="ij")
    block = torch.stack(axes).reshape(3, -1)
    if not sound:
        return block
    ids = torch.tensor(slot.expanded)
    found = torch.full((3, len(ids)), -1)
    found[:, ids == slot.pads[0]] = block
    found[:, ids == slot.pads[1]] = torch.arange(sound[0].tokens)
    found[:, -2:] = found.max() + 1
    return found


def turns(times: Sequence[float], sound: int, turn: int) -> list[tuple[int, int]]:
    """How many temporal patches, at positions `times`, and tokens of sound each turn of `turn` positions takes.

    >>> turns([0, 25, 50, 75], 120, 50)
    [(2, 50), (2, 50), (0, 20)]
    """
    count = max(int(times[-1] // turn) + 1, -(-sound // turn))
    patches = [sum(time // turn == number for time in times) for number in range(count)]
    return [(seen, min(turn, max(0, sound - number * turn))) for number, seen in enumerate(patches)]
