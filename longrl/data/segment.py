"""Stage `segment`: cut every video into clips, at fixed lengths or at its cuts, and score how much moves in them.

Fixed clips need no look at the video. Cuts and motion do: then each video is looked at once in a worker process, and
what was found is recorded under the video and the settings that matter, so a run over more videos looks only at these.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from longrl.config import SegmentSettings
from longrl.errors import LongrlError
from longrl.progress import track
from longrl.video.crew import PATIENCE, WorkerLost, run_jobs
from longrl.video.decode import DecodeError
from longrl.video.look import Job, look_at, spans_of
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from longrl.warehouse.ledger import Ledger, item_key

VERSION = 2
LOOK_VERSION = 1  # of what a look at a video finds


class NoClips(LongrlError):
    """Not one clip is left; the message says why and what to change."""


def segment(
    settings: SegmentSettings, videos: ArtifactRef, warehouse: Warehouse, patience: float = PATIENCE
) -> ArtifactRef:
    """Table CLIPS: the clips of all videos in the order of time, covering each video exactly.

    A clip's id hashes its video and its span, so captions survive a corpus that grows. With motion `enable`, clips
    below `minimum_motion` are rejects with rule `motion`; the clips that stay are numbered 0, 1, ... without them, and
    their times show the gaps. A video that can't be decoded (or hangs for `patience` seconds) is a reject with rule
    `unreadable` (`hangs`). Raises `NoClips` when nothing is left.
    """

    def build(draft: Draft) -> None:
        table = videos.table().select("video_id", "path", "duration", "width", "height")
        jobs = [Job(**row, settings=settings) for row in table.iter_rows(named=True)]
        found: dict[str, dict[str, Any]]
        if settings.mode == "scene" or settings.motion != "off":
            found = looks(jobs, draft.ledger, patience)
        else:
            found = {job.video_id: {"spans": spans_of(job, [])} for job in jobs}
        rows: list[dict[str, Any]] = []
        for job in jobs:
            item = found[job.video_id]
            if "reason" in item:
                draft.reject(job.video_id, item["rule"], f"{job.path}: {item['reason']}")
            else:
                rows += clips(job, item, draft)
        if not rows:
            reasons = "; ".join(sorted({item["reason"] for item in found.values() if "reason" in item})[:3])
            raise NoClips(
                f"no clip of {len(jobs)} videos is left: "
                + (reasons or f"all move less than {settings.minimum_motion:g}; lower segment.minimum_motion")
            )
        draft.write(pl.DataFrame(rows, schema=schemas.empty("segment").schema))

    return warehouse.produce("segment", VERSION, {"segment": settings}, {"videos": videos}, build)


def clips(job: Job, item: dict[str, Any], draft: Draft) -> list[dict[str, Any]]:
    """The rows of one video; clips that move too little go to the draft's rejects."""
    rows: list[dict[str, Any]] = []
    for (start, end), motion in zip(item["spans"], item.get("motion") or [None] * len(item["spans"]), strict=True):
        clip_id = item_key(job.video_id, start, end)
        if job.settings.motion == "enable" and motion < job.settings.minimum_motion:
            where = f"{job.path} at {start:g}-{end:g} s"
            draft.reject(clip_id, "motion", f"{where}: motion {motion:g} is below {job.settings.minimum_motion:g}")
            continue
        rows.append(
            {
                "clip_id": clip_id,
                "video_id": job.video_id,
                "index": len(rows),
                "start": start,
                "end": end,
                "motion": motion,
            }
        )
    return rows


def looks(jobs: list[Job], ledger: Ledger, patience: float) -> dict[str, dict[str, Any]]:
    """Spans and motion of each video, or the rule and reason it has none; by video id."""
    keys = {job.video_id: item_key("look", LOOK_VERSION, job.video_id, what_matters(job.settings)) for job in jobs}
    known = ledger.get_many(keys.values())
    found = {video_id: known[key] for video_id, key in keys.items() if key in known}
    waiting = [job for job in jobs if job.video_id not in found]
    workers = jobs[0].settings.workers if jobs else 1
    done = run_jobs(look_at, waiting, workers, expected=(DecodeError,), patience=patience)
    for job, result in track(done, "segment: looking at videos", len(waiting)):
        if isinstance(result, WorkerLost | DecodeError):  # not recorded: the file or the machine may be mended
            rule = "hangs" if isinstance(result, WorkerLost) else "unreadable"
            found[job.video_id] = {"rule": rule, "reason": str(result)}
        else:
            found[job.video_id] = result
            ledger.put(keys[job.video_id], result)
    return found


def what_matters(settings: SegmentSettings) -> dict[str, Any]:
    """The settings that decide what a look finds; which clips are then rejected is decided later."""
    fixed, scene = {"clip_seconds", "minimum_tail"}, {"detector", "threshold", "shortest", "longest"}
    others = (scene if settings.mode == "fixed" else fixed) | {"minimum_motion", "workers", "motion"}
    return settings.model_dump(mode="json", exclude=others) | {"motion": settings.motion != "off"}
