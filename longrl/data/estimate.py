"""What captions and questions will cost, from the real clips and frames, before a teacher is asked for anything.

Items that a former run has finished are not counted. What cannot be known beforehand is an assumption, and is printed
with the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from longrl.config import PipelineConfig, TeacherServer
from longrl.data import caption, reason
from longrl.teachers import openai, prompts
from longrl.teachers.base import CaptionedClip, Clip, Look
from longrl.teachers.server import USUAL_CONTEXT
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
    """Requests of one stage that are still to be made."""

    stage: str
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

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
    works = [
        caption_work(config, videos, clips, warehouse, assumed),
        reason_work(config, videos, clips, warehouse, assumed),
    ]
    servers = [config.caption.server, config.reason.server]
    lines = [
        f"{videos.rows} videos, {clips.rows} clips; what is finished is not counted",
        f"{'stage':<9}{'requests':>9}{'prompt tokens':>15}{'answer tokens':>15}{'cost':>11}{'minutes':>10}",
    ]
    rows = [
        (work, work.cost(server), work.seconds(server, assumed) / 60)
        for work, server in zip(works, servers, strict=True)
    ]
    total = Work("total", *(sum(getattr(work, name) for work in works) for name in COUNTS))
    rows.append((total, sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for work, cost, minutes in rows:
        lines.append(
            f"{work.stage:<9}{work.requests:>9}{work.prompt_tokens:>15}{work.answer_tokens:>15}{cost:>11.4f}{minutes:>10.1f}"
        )
    if total.requests and not any(server.price_input or server.price_output for server in servers):
        lines.append("no prices are set: caption.server.price_input, price_output, and the same of reason")
    lines.append("assumed: " + ", ".join(f"{name} {value}" for name, value in asdict(assumed).items()))
    return "\n".join(lines)


COUNTS = tuple(field.name for field in fields(Work))[1:]


def caption_work(
    config: PipelineConfig, videos: ArtifactRef, clips: ArtifactRef, warehouse: Warehouse, assumed: Assumptions
) -> Work:
    """The captions still to be written."""
    settings = config.caption
    if settings.teacher != "openai":
        return Work("caption")
    look = Look(settings.frames_per_clip, settings.size)
    waiting = caption.open_clips(settings, videos, clips, warehouse)
    prompt = 0
    for clip in waiting:
        prompt += image_tokens(clip, look, settings.send == "video", assumed)
        clocks = ["0:00"] * look.frames
        urls = [""] * (1 if settings.send == "video" else look.frames)
        told = prompts.caption_messages(
            clip.span, clocks, urls, settings.send == "video", settings.boxes, settings.server.language
        )
        prompt += sum(prompts.estimate_tokens(part.get("text", "")) for part in told[0]["content"])
    return Work("caption", len(waiting), prompt, len(waiting) * assumed.caption_tokens)


def image_tokens(clip: Clip, look: Look, video: bool, assumed: Assumptions) -> int:
    """Tokens of a clip's frames."""
    plan = look.plan(clip)
    pixels = plan.height * plan.width * len(plan.times)
    return -(-pixels // (assumed.pixels_per_token * (2 if video else 1)))


def reason_work(
    config: PipelineConfig, videos: ArtifactRef, clips: ArtifactRef, warehouse: Warehouse, assumed: Assumptions
) -> Work:
    """The questions still to be written; captions that are not there yet are taken to be of the assumed length."""
    settings = config.reason
    if settings.teacher != "openai":
        return Work("reason")
    captions = caption.finished(config.caption, videos, clips, warehouse)
    if captions is not None:
        works = reason.open_videos(settings, captions, warehouse, config.seed)
    else:
        text = "x" * 3 * assumed.caption_tokens
        works = [
            [CaptionedClip(c["clip_id"], c["video_id"], c["index"], c["start"], c["end"], text, {}) for c in rows]
            for rows in by_video(clips)
        ]
    total = Work("reason")
    for video in works:
        total = added(total, video_work(config, video, assumed))
    return total


def video_work(config: PipelineConfig, clips: list[CaptionedClip], assumed: Assumptions) -> Work:
    """All requests about one video: its summaries where it takes them, its questions, their rewritings."""
    settings = config.reason
    room = (settings.server.context or USUAL_CONTEXT) - settings.server.max_tokens - prompts.PROMPT_TOKENS
    notes = [prompts.Note(clip.index, clip.index, clip.span, clip.caption) for clip in clips]
    total = Work("reason")
    while openai.size(notes) > room >= 2 * prompts.SUMMARY_TOKENS:
        groups = openai.grouped(notes, room)
        total = added(total, Work("", len(groups), openai.size(notes), len(groups) * assumed.summary_tokens))
        if len(groups) >= len(notes):
            break
        text = "x" * 3 * assumed.summary_tokens
        notes = [prompts.Note(group[0].first, group[-1].last, "", text) for group in groups]
    shares = openai.quotas(settings.questions_per_video, config.seed, clips[0].video_id)
    for category, count in shares.items():
        if not count:
            continue
        told = prompts.question_messages(notes, category, count, language=settings.server.language)
        prompt = sum(prompts.estimate_tokens(message["content"]) for message in told)
        total = added(total, Work("", 1, prompt, count * assumed.question_tokens))
        if settings.rewrite:
            words = count * (prompts.estimate_tokens(prompts.REWRITER + prompts.REWRITE) + assumed.question_tokens)
            total = added(total, Work("", count, words, count * assumed.rewrite_tokens))
    return total


def by_video(clips: ArtifactRef) -> Iterable[list[dict]]:
    """The clips' rows, video by video, in the order of time."""
    table = clips.table().sort("video_id", "index")
    return (part.to_dicts() for part in table.partition_by("video_id", maintain_order=True))


def added(first: Work, second: Work) -> Work:
    """Both together, under the first one's name."""
    return Work(first.stage, *(getattr(first, name) + getattr(second, name) for name in COUNTS))
