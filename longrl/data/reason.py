"""Stage `reason`: a teacher reads all captions of a video in order and asks questions with a chain of thought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from longrl.config import ReasonSettings
from longrl.errors import LongrlError
from longrl.progress import Progress
from longrl.teachers import writer
from longrl.teachers.base import CaptionedClip, QuestionDraft, TeacherError
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from longrl.warehouse.ledger import item_key

VERSION = 2


class NoQuestions(LongrlError):
    """Not one question could be asked; the message gives the reasons."""


def reason(settings: ReasonSettings, captions: ArtifactRef, warehouse: Warehouse, seed: int) -> ArtifactRef:
    """Table QUESTIONS; a video about which nothing can be asked is a reject with rule `teacher` or `nothing_to_ask`, a
    single question that can't be used one named `<video_id>#<its place>` with rule `teacher` or `duplicate`.

    A video's questions are recorded as soon as they are written. Raises `TeacherUnavailable` when the teacher can't be
    reached, keeping what it has written, and `NoQuestions` when it wrote none.
    """
    teacher = writer(settings)

    def build(draft: Draft) -> None:
        videos = _videos(captions)
        keys = {
            name: _key(teacher.identity, clips, settings.questions_per_video, seed) for name, clips in videos.items()
        }
        known = draft.ledger.get_many(keys.values())
        done: dict[str, list[dict[str, Any]]] = {name: known[key] for name, key in keys.items() if key in known}
        reasons: dict[str, str] = {}
        waiting = [clips for name, clips in videos.items() if name not in done]

        with Progress(f"reason: {teacher.name}", total=len(videos)) as progress:

            def on_done(video_id: str, result: Sequence[QuestionDraft | TeacherError] | TeacherError) -> None:
                if isinstance(result, TeacherError):
                    reasons[video_id] = str(result)
                else:
                    done[video_id] = [
                        {"failure": str(written)} if isinstance(written, TeacherError) else written.row()
                        for written in result
                    ]
                    draft.ledger.put(keys[video_id], done[video_id])
                progress.update(len(done) + len(reasons))

            if waiting:
                teacher.write_videos(waiting, settings.questions_per_video, seed, on_done)
        rows: dict[str, dict[str, Any]] = {}
        for video_id in videos:
            questions = done.get(video_id)
            if questions is None:
                draft.reject(video_id, "teacher", reasons.get(video_id, "the teacher gave no answer"))
            elif not questions:
                draft.reject(
                    video_id, "nothing_to_ask", "the captions differ too little to ask anything with one answer"
                )
            for place, question in enumerate(questions or ()):
                if "failure" in question:
                    draft.reject(f"{video_id}#{place}", "teacher", question["failure"])
                    continue
                name = item_key(video_id, question["category"], question["question"], question["options"])
                if name in rows:
                    draft.reject(f"{video_id}#{place}", "duplicate", f"the same as question {name}")
                    continue
                rows[name] = {"question_id": name, "video_id": video_id, "teacher": teacher.name} | question
        if not rows:
            raise NoQuestions(
                f"no question could be asked of {len(videos)} videos: {'; '.join(list(reasons.values())[:3])}"
            )
        draft.facts |= {"teacher": teacher.identity}
        draft.write(pl.DataFrame(list(rows.values()), schema=schemas.empty("reason").schema))

    asked = {"teacher": teacher.identity, "count": settings.questions_per_video, "seed": seed}
    return warehouse.produce("reason", VERSION, asked, {"captions": captions}, build)


def _videos(captions: ArtifactRef) -> dict[str, list[CaptionedClip]]:
    """The captions of each video in the order of time."""
    videos: dict[str, list[CaptionedClip]] = {}
    for row in captions.table().sort("video_id", "index", maintain_order=True).iter_rows(named=True):
        row.pop("teacher")
        clip = CaptionedClip(**row | {"facts": json.loads(row["facts"])})
        videos.setdefault(clip.video_id, []).append(clip)
    return videos


def _key(identity: dict[str, Any], clips: list[CaptionedClip], count: int, seed: int) -> str:
    return item_key(VERSION, identity, [[clip.clip_id, clip.caption, clip.facts] for clip in clips], count, seed)
