"""Stories: short films whose truth is known, rendered as ordinary H.264 files.

A story has a handful of ten-second scenes. Four landmarks stand in the four corners of the picture, shuffled anew for
every story. In each scene one coloured agent appears near the middle, walks to a landmark, stays there a while and is
gone; the light changes once between two scenes. An agent is on screen for only about half of its scene, so a viewer
who takes few frames misses some of the story, and more frames really do help.

A story may have a sound track. Then each agent makes one of four sounds while it is on screen, low or high, held or in
beats, and nothing in the pictures tells which.

`write_corpus` puts the films in one folder and `write_truth` what happens in them in another place: teachers and
students are only ever given the first. Everything follows from the seed, to the byte, so disjoint seed ranges
(`range(first, first + count)`) are disjoint corpora.
"""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from longrl.warehouse.sharing import unfinished

SIZE = 112  # pixels, width and height
FPS = 4  # frames a second in the file
SCENE_SECONDS = 10.0  # one scene is one fixed clip of the segment stage
HALF = 11  # half an agent's width, pixels
AGENTS = {
    "red": (225, 30, 30),
    "yellow": (250, 225, 40),
    "white": (255, 255, 255),
    "black": (5, 5, 5),
    "purple": (150, 40, 200),
    "cyan": (0, 220, 230),
}  # name -> RGB
SHAPES = ("box", "ball", "diamond")
PLACES = ("tree", "house", "lake", "tower")
CORNERS = ("northwest", "northeast", "southwest", "southeast")
CENTRES = {"northwest": (26, 26), "northeast": (86, 26), "southwest": (26, 86), "southeast": (86, 86)}  # x, y pixels
LIGHTS = {
    "day": ((170, 190, 205), (140, 165, 115)),
    "dusk": ((195, 155, 140), (130, 125, 95)),
    "night": ((75, 75, 105), (60, 80, 70)),
}  # name -> sky RGB, ground RGB
SOUNDS = {"hums": (220.0, 0.0), "whistles": (1100.0, 0.0), "drums": (220.0, 2.0), "beeps": (1100.0, 2.0)}
# what an agent does -> pitch in Hz, beats a second (half of each is silent; 0: the sound is held)
SAMPLE_RATE = 16_000  # samples a second of the sound track
LOUD, FADE, HISS = 0.3, 0.01, 0.002  # amplitude; seconds of fading in and out; of the noise that is always there


@dataclass(frozen=True)
class Scene:
    """One agent's errand. Times are seconds from the film's beginning; `start` and `end` bound the scene itself."""

    start: float
    end: float
    actor: str
    shape: str
    place: str
    corner: str
    light: str
    appears: float  # the agent comes into being at `origin`
    arrives: float  # and has walked, in a straight line, to its landmark
    leaves: float  # and is gone
    origin: tuple[int, int]  # x, y pixels


@dataclass(frozen=True)
class Story:
    seed: int
    layout: dict[str, str]  # corner -> place
    scenes: tuple[Scene, ...]
    sounds: tuple[str, ...] = ()  # what the agent of each scene does; none: a silent film

    @property
    def duration(self) -> float:
        return self.scenes[-1].end


def make_story(seed: int, scenes: int = 4, sound: bool = False) -> Story:
    """The story of a seed: `scenes` (at most 6) different agents, each drawn with its landmark, light and timing.

    With `sound` each also has a sound; everything else stays as it is without.
    """
    rng = random.Random(f"story {seed}")
    layout = dict(zip(CORNERS, rng.sample(PLACES, len(PLACES)), strict=True))
    actors = rng.sample(sorted(AGENTS), scenes)
    before, after = rng.sample(sorted(LIGHTS), 2)
    change = rng.randrange(1, scenes)
    told = []
    for index, actor in enumerate(actors):
        start = index * SCENE_SECONDS
        corner = rng.choice(CORNERS)
        appears = start + rng.uniform(0.25, 4.25)
        arrives = appears + rng.uniform(1.25, 2.0)
        told.append(
            Scene(
                start=start,
                end=start + SCENE_SECONDS,
                actor=actor,
                shape=rng.choice(SHAPES),
                place=layout[corner],
                corner=corner,
                light=before if index < change else after,
                appears=round(appears, 2),
                arrives=round(arrives, 2),
                leaves=round(arrives + rng.uniform(2.5, 3.5), 2),
                origin=(SIZE // 2 + rng.randint(-6, 6), SIZE // 2 + rng.randint(-6, 6)),
            )
        )
    heard = random.Random(f"sounds of story {seed}").choices(list(SOUNDS), k=scenes) if sound else ()
    return Story(seed=seed, layout=layout, scenes=tuple(told), sounds=tuple(heard))


def render_frames(story: Story, times: np.ndarray) -> np.ndarray:
    """The pictures at `times` (seconds) as uint8 (T, H, W, 3), RGB. Times beyond the film show its last scene."""
    stages = {light: _stage(story, light) for light in {scene.light for scene in story.scenes}}
    frames = np.empty((len(times), SIZE, SIZE, 3), np.uint8)
    for index, time in enumerate(times):
        scene = story.scenes[min(int(time // SCENE_SECONDS), len(story.scenes) - 1)]
        frames[index] = stages[scene.light]
        if scene.appears <= time < scene.leaves:
            x, y = _position(scene, float(time))
            yy, xx = np.mgrid[-HALF:HALF, -HALF:HALF] + 0.5
            inside = {
                "box": np.ones_like(xx, bool),
                "ball": xx**2 + yy**2 <= HALF**2,
                "diamond": abs(xx) + abs(yy) <= HALF * 1.25,
            }[scene.shape]
            frames[index, y - HALF : y + HALF, x - HALF : x + HALF][inside] = AGENTS[scene.actor]
    return frames


def render_sound(story: Story) -> np.ndarray:
    """The sound track, float32 (samples,), mono at `SAMPLE_RATE`: each agent's sound while it is on screen."""
    total = round(story.duration * SAMPLE_RATE)
    track = np.random.default_rng(story.seed).normal(0.0, HISS, total).astype(np.float32)
    for scene, name in zip(story.scenes, story.sounds, strict=True):
        first, last = round(scene.appears * SAMPLE_RATE), round(scene.leaves * SAMPLE_RATE)
        time = np.arange(last - first) / SAMPLE_RATE
        pitch, beats = SOUNDS[name]
        beat, within = (1 / beats, time % (1 / beats)) if beats else (2 * time[-1], time)
        shape = np.minimum(np.minimum(within, (beat / 2 if beats else time[-1]) - within) / FADE, 1.0).clip(0.0)
        track[first:last] += (LOUD * shape * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
    return track


def write_film(path: Path, story: Story) -> None:
    """Encode one story as H.264, and AAC where it has sound, in mp4.

    The file appears whole or not at all; the same story gives the same bytes.
    """
    import av

    partial = unfinished(path)
    frames = render_frames(story, (np.arange(int(story.duration * FPS)) + 0.5) / FPS)
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "20", "preset": "veryfast", "g": str(int(FPS * SCENE_SECONDS))}
        heard = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if story.sounds else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if heard is not None:
            _encode_sound(container, heard, render_sound(story))
    os.replace(partial, path)


def _encode_sound(container: Any, stream: Any, track: np.ndarray) -> None:
    import av

    for start in range(0, len(track), 1024):
        frame = av.AudioFrame.from_ndarray(track[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_corpus(
    folder: Path, first_seed: int, count: int, scenes: int = 4, workers: int = 1, sound: bool = False
) -> list[Path]:
    """Write the films of seeds `first_seed … first_seed + count - 1`; those already there are left alone.

    Returns their paths in the order of the seeds. A film that exists is complete, because `write_film` is atomic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"story-{seed:07d}.mp4" for seed in range(first_seed, first_seed + count)]
    missing = [(path, first_seed + i, scenes, sound) for i, path in enumerate(paths) if not path.exists()]
    if workers > 1 and len(missing) > 1:
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(write_one, missing, chunksize=8))
    else:
        for job in missing:
            write_one(job)
    return paths


def write_truth(path: Path, first_seed: int, count: int, scenes: int = 4, sound: bool = False) -> None:
    """What happens in each film, as JSON {film name: story}, for tests and evaluation. Keep it out of the corpus."""
    seeds = range(first_seed, first_seed + count)
    truth = {f"story-{seed:07d}.mp4": asdict(make_story(seed, scenes, sound)) for seed in seeds}
    for story in truth.values() if not sound else ():
        del story["sounds"]
    partial = unfinished(path)
    partial.write_text(json.dumps(truth, indent=1))
    os.replace(partial, path)


def write_one(job: tuple[Path, int, int, bool]) -> None:
    """`write_film` for a worker process: the job is (path, seed, scenes, sound)."""
    path, seed, scenes, sound = job
    write_film(path, make_story(seed, scenes, sound))


def _position(scene: Scene, time: float) -> tuple[int, int]:
    """Where the agent's middle is, in pixels: on its way, then bobbing beside the landmark, towards the centre."""
    x, y = CENTRES[scene.corner]
    target = np.array([x + (8 if x < SIZE / 2 else -8), y + 12])
    done = min(1.0, (time - scene.appears) / (scene.arrives - scene.appears))
    here = np.array(scene.origin) * (1 - done) + target * done
    bob = (2 if int(time * 2) % 2 else -2) if done == 1 else 0
    x, y = here.round().astype(int)
    return int(x), int(y) + bob


def _stage(story: Story, light: str) -> np.ndarray:
    """The empty picture, uint8 (H, W, 3): sky over ground, brighter towards the east, with the four landmarks."""
    rng = np.random.default_rng(story.seed)
    sky, ground = LIGHTS[light]
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[: SIZE // 2], picture[SIZE // 2 :] = sky, ground
    picture += np.linspace(-22, 22, SIZE, dtype=np.float32)[None, :, None] * np.array([1, 1, 0.6], np.float32)
    picture += rng.uniform(-5, 5, (SIZE, SIZE, 1))
    picture = picture.clip(0, 255).astype(np.uint8)
    for corner, place in story.layout.items():
        draw_landmark(picture, place, *CENTRES[corner])
    return picture


def draw_landmark(picture: np.ndarray, place: str, x: int, y: int) -> None:
    """Draw a landmark about 36 pixels high around (x, y)."""
    yy, xx = np.mgrid[:SIZE, :SIZE]
    dx, dy = xx - x, yy - y
    if place == "tree":
        picture[(abs(dx) <= 2) & (dy >= 0) & (dy < 18)] = (100, 70, 40)
        picture[(dy >= -18) & (dy < 8) & (abs(dx) * 2 <= dy + 20)] = (20, 125, 40)
    elif place == "house":
        picture[(abs(dx) <= 15) & (dy >= -4) & (dy < 16)] = (150, 95, 55)
        picture[(dy >= -18) & (dy < -4) & (abs(dx) <= dy + 20)] = (110, 45, 35)
    elif place == "lake":
        picture[(dx / 20) ** 2 + (dy / 14) ** 2 <= 1] = (40, 95, 215)
    else:
        picture[(abs(dx) <= 7) & (abs(dy) <= 18)] = (120, 120, 120)
        picture[(abs(dx) <= 10) & (dy >= -18) & (dy < -12)] = (90, 90, 90)
