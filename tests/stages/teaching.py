"""What tests of the openai teacher share: small videos, settings for a server, and questions as a model writes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import av
import numpy as np
import polars as pl

from longrl.config import CaptionSettings, ReasonSettings, TeacherServer
from longrl.teachers.base import CaptionedClip
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.curation import store
from tests.stages.misbehaving_server import answer, text_of

KEY = "sk-very-secret-4711"
CAPTIONED = [CaptionedClip(f"c{n}", "v", n, 10.0 * n, 10.0 * n + 10, f"Scene {n}.", {}) for n in range(3)]


def server_settings(url: str, **changes) -> TeacherServer:
    return TeacherServer(**{"base_url": url, "model": "m", "timeout": 20.0, "retries": 2} | changes)


def caption_settings(url: str, **changes) -> CaptionSettings:
    server = server_settings(url, **changes)
    return CaptionSettings(teacher="openai", frames_per_clip=4, size=56, workers=1, server=server)


def reason_settings(
    url: str, count: int = 4, rewrite: bool = False, open_share: float = 0.0, **changes
) -> ReasonSettings:
    asked = {"questions_per_video": count, "rewrite": rewrite, "open_share": open_share}
    return ReasonSettings(teacher="openai", server=server_settings(url, **changes), **asked)


def one_question(**changes) -> dict:
    return {
        "question": "Who comes in first?",
        "options": ["a red box", "a blue ball", "a dog", "a cat"],
        "evidence": [0, 1],
        "reasoning": "At 0:00-0:10 the red box comes in, before anybody else.",
        "conclusion": "A red box comes in first.",
        "answer": "A",
    } | changes


def asked_questions(handler) -> None:
    """Answers with as many good questions as the schema asks for, different for each video and category."""
    schema = handler.body["response_format"]["json_schema"]["schema"]
    tag = hashlib.sha256(text_of(handler.body).encode()).hexdigest()[:6]
    questions = [
        one_question(question=f"Who comes in at {tag} as number {n}?")
        for n in range(schema["properties"]["questions"]["maxItems"])
    ]
    answer(json.dumps({"questions": questions}))(handler)


def corpus(warehouse: Warehouse, folder: Path, videos: int = 2, clips: int = 3) -> tuple[ArtifactRef, ArtifactRef]:
    """Two artifacts as ingest and segment leave them, over real files."""
    rows, spans = [], []
    for number in range(videos):
        path = video(folder, 40 + 60 * number, 2 * clips)
        name = hashlib.sha256(path.read_bytes()).hexdigest()
        row = {"video_id": name, "path": str(path), "bytes": path.stat().st_size, "container": "mp4", "codec": "h264"}
        size = {"duration": 2.0 * clips, "fps": 4.0, "frames": 8 * clips, "width": 64, "height": 64, "rotation": 0}
        rows.append(row | size | {"variable_rate": False, "audio": False})
        for n in range(clips):
            span = {"index": n, "start": 2.0 * n, "end": 2.0 * n + 2}
            spans.append({"clip_id": f"{number}-{n}", "video_id": name} | span)

    return store(warehouse, "ingest", rows), store(warehouse, "segment", spans)


def video(folder: Path, shade: int, seconds: int) -> Path:
    """A small H.264 file, 4 frames a second."""
    path = folder / f"{shade}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(seconds * 4):
            pixels = np.full((64, 64, 3), (shade, number % 200, 90), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def calls_of(made: ArtifactRef) -> pl.DataFrame:
    """The account of an artifact's requests."""
    return pl.read_parquet(made.file("calls.parquet"))
