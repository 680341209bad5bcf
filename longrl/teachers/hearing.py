"""Hearing in the world of the stories: what an agent does while it is seen, from the samples of the sound track.

Two things are measured: the pitch, as the peak of the spectrum of what is loud, and the rhythm, as how often the sound
begins anew. The teacher knows what the four sounds are like, and nothing of any story.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longrl.video.audio import RATE
from longrl.video.stories import SOUNDS

STEP = 0.02  # seconds of sound that are one level
LOUD = 0.05  # root mean square from which a step is loud; the stories' noise is a twentieth of that
ENOUGH = 0.5  # seconds of loud sound that it takes to name it
PITCH = 0.06  # share by which a pitch may differ from a sound's: half a tone
BEATS = 0.5  # beats a second by which a rhythm may differ


@dataclass(frozen=True)
class Tone:
    """What was measured of a span of sound: pitch in Hz, beats a second (0: held), seconds of loud sound."""

    pitch: float
    beats: float
    seconds: float


def listen(sound: np.ndarray) -> Tone | None:
    """The tone in float32 samples (n,) at 16 kHz; None where too little of it is loud."""
    step = round(STEP * RATE)
    levels = np.sqrt((sound[: len(sound) // step * step].reshape(-1, step) ** 2).mean(1))
    loud = levels > LOUD
    if loud.sum() * STEP < ENOUGH:
        return None
    spectrum = np.abs(np.fft.rfft(sound * np.repeat(np.append(loud, loud[-1:]), step)[: len(sound)]))
    pitch = float(spectrum.argmax() * RATE / len(sound))
    begins = np.flatnonzero(np.diff(loud.astype(int)) == 1)
    beats = 0.0 if len(begins) < 2 else (len(begins) - 1) / ((begins[-1] - begins[0]) * STEP)
    return Tone(round(pitch, 1), round(float(beats), 2), round(float(loud.sum()) * STEP, 2))


def name(tone: Tone | None) -> str:
    """Which of the stories' sounds a tone is; empty where it is none.

    >>> name(Tone(1102.5, 2.0, 2.5)), name(Tone(440.0, 0.0, 2.5))
    ('beeps', '')
    """
    if tone is None:
        return ""
    for sound, (pitch, beats) in SOUNDS.items():
        if abs(tone.pitch / pitch - 1) <= PITCH and abs(tone.beats - beats) <= BEATS:
            return sound
    return ""
