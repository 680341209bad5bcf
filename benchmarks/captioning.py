"""How busy captioning keeps a server: `make bench NAME=captioning`.

A real HTTP server on this machine (asyncio, its own process) answers chat completions after a time drawn from a
log-normal distribution, as a model server's answers take: most 2 to 4 seconds, some much longer. Clips of real H.264
files are decoded, turned into JPEGs and sent by the stage `caption` itself, with its ledger and account. The server
notes when each request comes in and goes out. Between ramp-up (the concurrency is first reached) and ramp-down (the
last request has come in) the mean number of requests in the server, as a share of the configured concurrency, must be
at least 0.95: neither decoding nor bookkeeping may starve the server. Frames are decoded in worker processes, a bounded
way ahead.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import polars as pl

from benchmarks.harness import Bar, Report, peak_mib
from longrl.config import CaptionSettings, TeacherServer
from longrl.data.caption import caption
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.schemas import empty

MEDIAN, SPREAD = 3.0, 0.35  # seconds, and the standard deviation of their logarithm
CLIP = 10.0  # seconds
USAGE = {"prompt_tokens": 400, "completion_tokens": 120, "total_tokens": 520}


def run(options: list[str]) -> Report:
    """Caption clips against the server at each concurrency."""
    parser = argparse.ArgumentParser(prog="captioning")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=10, help="clips for each request in flight")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=int, default=224)
    chosen = parser.parse_args(options)
    report = Report(settings=vars(chosen) | {"median_seconds": MEDIAN, "spread": SPREAD})
    with tempfile.TemporaryDirectory() as folder:
        for concurrency in chosen.concurrency:
            warehouse = Warehouse(Path(folder) / f"warehouse-{concurrency}")
            videos, clips = corpus(warehouse, Path(folder), concurrency * chosen.rounds)
            report.rows.append(measure(concurrency, chosen, videos, clips, warehouse))
    for row in report.rows:
        report.bars.append(Bar(f"busy_share_at_{row['concurrency']}", row["busy_share"], 0.95))
    return report


def measure(
    concurrency: int, chosen: argparse.Namespace, videos: ArtifactRef, clips: ArtifactRef, warehouse: Warehouse
) -> dict[str, float]:
    """Run the stage once; the figures of its row."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        server = TeacherServer(base_url=ours.recv(), model="m", concurrency=concurrency)
        settings = CaptionSettings(
            teacher="openai", frames_per_clip=chosen.frames, size=chosen.size, server=server, workers=2
        )
        cpu, started = time.process_time(), time.monotonic()
        made = caption(settings, videos, clips, warehouse)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        ours.send("done")
        spans = ours.recv()
    finally:
        process.terminate()
    assert made.rows == clips.rows == len(spans)
    return {
        "concurrency": concurrency,
        "clips": clips.rows,
        "busy_share": busy_share(spans, concurrency),
        "most_in_flight": most(spans),
        "seconds": seconds,
        "client_cpu_seconds": cpu,
        "peak_mib": peak_mib(),
    }


def busy_share(spans: list[tuple[float, float]], concurrency: int) -> float:
    """Mean requests in the server over the concurrency, from when it is first reached to when the last one comes in."""
    starts = sorted(start for start, _ in spans)
    begin, end = starts[concurrency - 1], starts[-1]
    inside = sum(max(0.0, min(stop, end) - max(start, begin)) for start, stop in spans)
    return inside / (end - begin) / concurrency


def most(spans: list[tuple[float, float]]) -> int:
    """The largest number of requests in the server at once."""
    changes = sorted([(start, 1) for start, _ in spans] + [(stop, -1) for _, stop in spans])
    return int(np.cumsum([change for _, change in changes]).max())


def corpus(warehouse: Warehouse, folder: Path, clips: int) -> tuple[ArtifactRef, ArtifactRef]:
    """One H.264 file of moving noise, 384x216 at 24 frames a second, as ingest and segment leave it."""
    path = folder / f"{clips}.mp4"
    write_film(path, seconds=clips * CLIP)
    name = hashlib.sha256(path.read_bytes()).hexdigest()
    video = {"video_id": name, "path": str(path), "bytes": path.stat().st_size, "container": "mp4", "codec": "h264"}
    video |= {"duration": clips * CLIP, "fps": 24.0, "frames": round(clips * CLIP * 24), "width": 384, "height": 216}
    video |= {"rotation": 0, "variable_rate": False, "audio": False}
    spans = [
        {"clip_id": str(n), "video_id": name, "index": n, "start": CLIP * n, "end": CLIP * (n + 1)}
        for n in range(clips)
    ]

    def stage(stage: str, rows: list[dict]) -> ArtifactRef:
        frame = pl.DataFrame(rows, schema=empty(stage).schema)
        return warehouse.produce(stage, 1, {}, {"rows": str(rows)}, lambda draft: draft.write(frame))

    return stage("ingest", [video]), stage("segment", spans)


def write_film(path: Path, seconds: float) -> None:
    """A minute of film, and its packets again and again: quick to write, and as slow to decode as any other."""
    texture = np.random.default_rng(0).integers(0, 255, (216, 768, 3), dtype=np.uint8)
    minute = path.with_name("minute.mp4")
    if not minute.exists():
        with av.open(str(minute), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 384, 216, "yuv420p"
            stream.options = {"preset": "ultrafast", "g": "48", "crf": "35"}
            for number in range(60 * 24):
                shift = number % 384
                picture = np.ascontiguousarray(texture[:, shift : shift + 384])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    with av.open(str(path), "w") as target:
        copy = None
        for turn in range(int(-(-seconds // 60))):
            with av.open(str(minute)) as source:
                stream = source.streams.video[0]
                copy = copy or target.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is None:
                        continue
                    shift = int(turn * 60 / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    target.mux(packet)


def serve(pipe: Connection) -> None:
    """The server's process: tells its address, answers, and tells at last when each request came and went."""
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    spans: list[tuple[float, float]] = []
    draw = random.Random(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                start = time.monotonic()
                length = int(
                    next(line for line in head.split("\r\n") if line.startswith("content-length")).split(":")[1]
                )
                await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            await asyncio.sleep(draw.lognormvariate(np.log(MEDIAN), SPREAD))
            message = {"role": "assistant", "content": f"Something moves, {len(spans)}."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            spans.append((start, time.monotonic()))
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**20)
    pipe.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    await asyncio.to_thread(pipe.recv)
    pipe.send(spans)
    await asyncio.sleep(60)
