"""What captions and questions will cost, from the real clips and frames, before a teacher is asked for anything.

Items that a former run has finished are not counted. What cannot be known beforehand is an assumption, and is printed
with the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from longrl.config import CaptionSettings, PipelineConfig, TeacherServer
from longrl.data import caption, reason
from longrl.teachers import prompts
from longrl.teachers.base import CaptionedClip, Clip, Look, TeacherError
from longrl.teachers.connection import USUAL_CONTEXT
from longrl.teachers.notes import Note, estimate_tokens, grouped, notes_of, room_for_notes, size
from longrl.teachers.openai import kinds, quotas
from longrl.warehouse.artifacts import ArtifactRef, Warehouse


@dataclass(frozen=True)
class Assumptions:
    """What is taken for granted where nobody can know."""

    pixels_per_token: int = 28 * 28  # of an image, as Qwen2.5-VL sees it; two frames of a video share a token
    caption_tokens: int = 200  # of an answer, as are the next three
    question_tokens: int = 350
    rewrite_tokens: int = 200
    summary_tokens: int = 400
    read_per_second: int = 2000  # prompt tokens, of one request
    write_per_second: int = 40  # answer tokens, of one request


@dataclass(frozen=True)
class Work:
    """Requests that are still to be made."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def cost(self, server: TeacherServer) -> float:
        """In the currency of the server's prices."""
        return (self.prompt_tokens * server.price_input + self.answer_tokens * server.price_output) / 1e6

    def seconds(self, server: TeacherServer, assumed: Assumptions) -> float:
        """With all of the server's concurrency busy."""
        busy = self.prompt_tokens / assumed.read_per_second + self.answer_tokens / assumed.write_per_second
        return busy / max(1, min(server.concurrency, self.requests))


def estimate(
    config: PipelineConfig,
    videos: ArtifactRef,
    clips: ArtifactRef,
    warehouse: Warehouse,
    assumed: Assumptions = Assumptions(),
) -> str:
    """Counts, tokens, cost and time of the stages caption and reason, as lines to print."""
    captions = (
        caption_work(config.caption, clip, assumed) for clip in clips_to_caption(config, videos, clips, warehouse)
    )
    questions = (
        question_work(config, video, assumed)
        for video in videos_to_ask_about(config, videos, clips, warehouse, assumed)
    )
    servers = {"caption": config.caption.server, "reason": config.reason.server}
    works = {"caption": sum(captions, Work()), "reason": sum(questions, Work())}
    rows = [
        (stage, work, work.cost(servers[stage]), work.seconds(servers[stage], assumed) / 60)
        for stage, work in works.items()
    ]
    total = sum(works.values(), Work())
    rows.append(("total", total, sum(row[2] for row in rows), sum(row[3] for row in rows)))
    lines = [
        f"{videos.rows} videos, {clips.rows} clips; what is finished is not counted",
        f"{'stage':<9}{'requests':>9}{'prompt tokens':>15}{'answer tokens':>15}{'cost':>11}{'minutes':>10}",
    ]
    for stage, work, cost, minutes in rows:
        counts = f"{work.requests:>9}{work.prompt_tokens:>15}{work.answer_tokens:>15}"
        lines.append(f"{stage:<9}{counts}{cost:>11.4f}{minutes:>10.1f}")
    if total.requests and not any(server.price_input or server.price_output for server in servers.values()):
        lines.append("no prices are set: caption.server.price_input, price_output, and the same of reason")
    lines.append("assumed: " + ", ".join(f"{name} {value}" for name, value in asdict(assumed).items()))
    return "\n".join(lines)


def clips_to_caption(
    config: PipelineConfig, videos: ArtifactRef, clips: ArtifactRef, warehouse: Warehouse
) -> list[Clip]:
    """The clips whose captions a server is still to be asked for."""
    if config.caption.teacher != "openai":
        return []
    return caption.open_clips(config.caption, videos, clips, warehouse)


def caption_work(settings: CaptionSettings, clip: Clip, assumed: Assumptions) -> Work:
    """The request for a clip's caption."""
    look, video = Look(settings.frames_per_clip, settings.size), settings.send == "video"
    clocks, urls = ["0:00"] * look.frames, [""] * (1 if video else look.frames)
    told = prompts.caption_messages(clip.span, clocks, urls, video, settings.boxes, settings.server.language)
    words = sum(estimate_tokens(part.get("text", "")) for part in told[0]["content"])
    return Work(1, image_tokens(clip, look, video, assumed) + words, assumed.caption_tokens)


def image_tokens(clip: Clip, look: Look, video: bool, assumed: Assumptions) -> int:
    """Tokens of a clip's frames."""
    plan = look.plan(clip)
    pixels = plan.height * plan.width * len(plan.times)
    return -(-pixels // (assumed.pixels_per_token * (2 if video else 1)))


def videos_to_ask_about(
    config: PipelineConfig, videos: ArtifactRef, clips: ArtifactRef, warehouse: Warehouse, assumed: Assumptions
) -> Sequence[Sequence[CaptionedClip]]:
    """The videos about which a server is still to be asked; captions that are not there yet are taken to be of the
    assumed length."""
    if config.reason.teacher != "openai":
        return []
    captions = caption.finished(config.caption, videos, clips, warehouse)
    if captions is not None:
        return reason.open_videos(config.reason, captions, warehouse, config.seed)
    table = clips.table().sort("video_id", "index").drop("motion")
    told: dict[str, Any] = {"caption": "x" * 3 * assumed.caption_tokens, "facts": {}}
    return [
        [CaptionedClip(**row, **told) for row in rows.iter_rows(named=True)]
        for rows in table.partition_by("video_id", maintain_order=True)
    ]


def question_work(config: PipelineConfig, clips: Sequence[CaptionedClip], assumed: Assumptions) -> Work:
    """All requests about one video: its summaries where it takes them, its questions, their rewritings.

    A video whose captions do not fit even summed up is asked nothing; it will be a reject.
    """
    settings = config.reason
    room = room_for_notes(settings.server, settings.server.context or USUAL_CONTEXT)
    notes, levels, total = notes_of(clips), 0, Work()
    while size(notes) > room:
        try:
            groups = grouped(notes, room, levels)
        except TeacherError:
            return total
        total += Work(len(groups), size(notes), len(groups) * assumed.summary_tokens)
        text = "x" * 3 * assumed.summary_tokens
        notes, levels = [Note(group[0].first, group[-1].last, "", text) for group in groups], levels + 1
    shares = quotas(settings.questions_per_video, config.seed, clips[0].video_id)
    for category, (choices, opens) in kinds(shares, settings.open_share, config.seed, clips[0].video_id).items():
        count = choices + opens
        if not count:
            continue
        told = prompts.question_messages(notes, category, choices, opens, language=settings.server.language)
        prompt = sum(estimate_tokens(message["content"]) for message in told)
        total += Work(1, prompt, count * assumed.question_tokens)
        if settings.rewrite:
            words = count * (estimate_tokens(prompts.REWRITER + prompts.REWRITE) + assumed.question_tokens)
            total += Work(count, words, count * assumed.rewrite_tokens)
    return total
