"""A finished run made in a second: real films, real ingest and segment stages, and made-up answers of three models."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import polars as pl

from longrl.config import FrameSettings, IngestSettings, PipelineConfig, SegmentSettings
from longrl.data.ingest import ingest
from longrl.data.segment import segment
from longrl.evaluation.extract import score
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from tests.videos import write_video

CATEGORIES = ("temporal", "goal", "spatial", "plot")
COLOURS = {"red": (214, 60, 52), "yellow": (246, 214, 70), "white": (250, 250, 250), "purple": (150, 60, 190)}
PLACES = ("tree", "house", "lake", "tower")
SKILL = {"base": (0.25, 0.02), "sft": (0.58, 0.97), "rl": (0.72, 0.99)}  # share right and share well-formed


def film(index: int, seconds: int = 40, fps: int = 2) -> np.ndarray:
    """A coloured square that crosses a field whose shade changes every ten seconds. uint8 (T, 64, 64, 3)."""
    frames = np.zeros((seconds * fps, 64, 64, 3), dtype=np.uint8)
    for t in range(len(frames)):
        scene = t // (10 * fps)
        frames[t] = (90 + 30 * scene, 120 + 10 * (index % 5), 110)
        x, y = 4 + (t * 2 + index * 5) % 44, 8 + 12 * scene
        frames[t, y : y + 14, x : x + 14] = list(COLOURS.values())[(index + scene) % 4]
    return frames


def make_run(
    root: Path,
    count: int = 10,
    held_out: int = 4,
    models: tuple[str, ...] = ("base", "sft", "rl"),
    caption: str = "0",
    films: Path | None = None,
) -> tuple[PipelineConfig, dict[str, ArtifactRef], Warehouse]:
    """Settings, artifacts by stage and warehouse of a run over `count` films, `held_out` of them for evaluation.

    `caption` is put into every caption, question and response, so that a test can try hostile texts.
    """
    if films is None:
        films = root / "films"
        films.mkdir(parents=True)
        for index in range(count):
            write_video(films / f"film-{index:02d}.mp4", film(index), fps=2)
    warehouse = Warehouse(root / "warehouse")
    config = PipelineConfig(frames=FrameSettings(budgets=(4, 8, 16), budget=16))
    refs = {"ingest": ingest(IngestSettings(workers=1), films, warehouse)}
    refs["segment"] = segment(SegmentSettings(), refs["ingest"], warehouse)
    clips = refs["segment"].table()
    colour = pl.col("index").replace_strict(dict(enumerate(COLOURS)), default="red")
    captions = clips.with_columns(
        caption=pl.format("a {} box walks to the tree; {}", colour, pl.lit(caption)),
        facts=pl.lit("{}"),
        teacher=pl.lit("measured"),
    ).select(list(schemas.CAPTIONS))
    refs["caption"] = table(warehouse, "caption", captions)
    questions = pl.concat([ask(video, caption) for video in sorted(set(clips["video_id"]))])
    refs["reason"] = table(warehouse, "reason", questions)
    ids = sorted(set(questions["video_id"]))
    split = {
        video: "eval" if i >= len(ids) - held_out else "rl" if i % 3 == 0 else "sft" for i, video in enumerate(ids)
    }
    dataset = questions.with_columns(
        split=pl.col("video_id").replace_strict(split, return_dtype=pl.String), pass_rate=pl.lit(None, pl.Float64)
    )
    dropped = {"duplicate": 3, "option-balance": 2, f"rule {caption}": 1}
    refs["curate"] = table(warehouse, "curate", dataset, dropped)
    if models:
        refs["model"] = folder(warehouse, "model", [])
    for stage, steps in (("sft", sft_steps()), ("rl", rl_steps())):
        if stage in models:
            refs[stage] = folder(warehouse, stage, steps)
    if models:
        held = dataset.filter(pl.col("split") == "eval").to_dicts()
        rows = [row for model in models for row in answers(model, held, config, model == models[-1], caption)]
        refs["evaluate"] = table(warehouse, "evaluate", pl.DataFrame(rows, schema=schemas.empty("evaluate").schema))
    return config, refs, warehouse


def table(warehouse: Warehouse, stage: str, frame: pl.DataFrame, dropped: dict[str, int] | None = None) -> ArtifactRef:
    def build(draft: Draft) -> None:
        draft.write(frame)
        for rule, count in (dropped or {}).items():
            for index in range(count):
                draft.reject(f"{rule}-{index}", rule, "because the test says so")

    return warehouse.produce(stage, 1, {"made": "for a test"}, {}, build)


def folder(warehouse: Warehouse, stage: str, steps: list[dict]) -> ArtifactRef:
    def build(draft: Draft) -> None:
        (draft.folder / "hf").mkdir()
        (draft.folder / "hf" / "config.json").write_text(json.dumps({"stage": stage}))
        (draft.folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))

    return warehouse.produce(stage, 1, {"made": "for a test"}, {}, build)


def ask(video: str, caption: str) -> pl.DataFrame:
    """Six questions about a video, their right answers spread over the letters."""
    rows = []
    for index in range(6):
        options = list(PLACES if index % 2 else COLOURS)
        rows.append(
            {
                "question_id": f"{video[:12]}-{index}",
                "video_id": video,
                "kind": "choice",
                "category": CATEGORIES[index % 4],
                "question": f"Where does walker {index} go? {caption}"
                if index % 2
                else f"Who walks in clip {index}? {caption}",
                "options": options,
                "answer": "ABCD"[int(video[index], 16) % 4],
                "reasoning": f"0–10s: a red box walks to the tree. 10–20s: a yellow one to the lake. {caption}",
                "conclusion": "So the second is yellow.",
                "evidence": [0, 1],
                "teacher": "measured",
            }
        )
    return pl.DataFrame(rows, schema=schemas.empty("reason").schema)


def answers(model: str, questions: list[dict], config: PipelineConfig, last: bool, caption: str) -> list[dict]:
    """Rows of SAMPLES with the model's share of right answers, which grows with the frames."""
    right_share, formed_share = SKILL[model]
    runs = [("greedy", 0, n) for n in config.frames.budgets]
    runs += [("sampled", i, config.frames.budget) for i in range(8)] if model != "base" else []
    runs += [("shuffled_video", 0, config.frames.budget)] if last else []
    rows = []
    for mode, sample, frames in runs:
        for question in questions:
            dice = random.Random(f"{question['question_id']} {mode} {sample} {frames}")  # the same for every model
            skill = right_share if mode != "shuffled_video" else 0.25
            skill = 0.25 + (skill - 0.25) * (0.4 + 0.6 * math.log(frames) / math.log(config.frames.budget))
            letter = (
                question["answer"]
                if dice.random() < skill
                else dice.choice([x for x in "ABCD" if x != question["answer"]])
            )
            formed = dice.random() < formed_share
            response = (
                f"<think>{question['reasoning']}</think><answer>{letter}</answer>" if formed else f"{letter} {caption}"
            )
            judged = score(response, question["options"], question["answer"])
            rows.append(
                {
                    "model": model,
                    "question_id": question["question_id"],
                    "video_id": question["video_id"],
                    "category": question["category"],
                    "mode": mode,
                    "sample": sample,
                    "frames": frames,
                    "plan": "0" * 16,
                    "response": response,
                    "extracted": judged.extracted,
                    "gold": question["answer"],
                    "correct": judged.correct,
                    "well_formed": judged.well_formed,
                    "tokens": 40,
                    "finish": "stop",
                    "error": None,
                }
            )
    return rows


def sft_steps() -> list[dict]:
    dice = random.Random(0)
    phases = [("captions", 120), ("reading", 60), ("questions", 160)]
    names = [name for name, steps in phases for _ in range(steps)]
    return [
        {"step": step, "phase": name, "loss": 0.2 + 4 * math.exp(-step / 60) + 0.15 * dice.random()}
        for step, name in enumerate(names, 1)
    ]


def rl_steps() -> list[dict]:
    dice = random.Random(1)
    return [
        {
            "step": step,
            "reward": 0.6 + 0.003 * step + 0.06 * dice.gauss(0, 1),
            "accuracy": 0.55 + 0.0033 * step + 0.06 * dice.gauss(0, 1),
            "parity_gap": 1e-5 * (1 + dice.random()),
        }
        for step in range(1, 41)
    ]
