"""The leaderboard: `warehouse/reports/leaderboard.html`, one page of all models on all benchmarks they were asked.

Each benchmark has a table (accuracy with its clustered error and 95% interval, the paired difference to the best,
baselines, rows without an answer), bars by group, a curve over frames where there is one, and its questions in the
browser that the report has too. It is written from the artifacts alone, so it can be written again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from longrl.config import IngestSettings
from longrl.data.ingest import probes_of
from longrl.evaluation import browser, figures
from longrl.evaluation.baselines import Agreement, agreement, majority, pass_at
from longrl.evaluation.browser import Film, Question, QuestionSet, answers_of
from longrl.evaluation.clips import Clips
from longrl.evaluation.page import rendered
from longrl.evaluation.standings import Board, Entry, paired, standings
from longrl.evaluation.statistics import Estimate
from longrl.evaluation.summary import MODELS, percent, points
from longrl.warehouse.artifacts import Warehouse, WarehouseError
from longrl.warehouse.sharing import unfinished

PAGE = "leaderboard.html"
COLOURS = 8  # m0 ... m7 in page.css


def leaderboard(warehouse: Warehouse) -> Path:
    """Write the page and return its path. Raises `WarehouseError` when it cannot be written."""
    path = warehouse.root / "reports" / PAGE
    page = render(warehouse, path.parent)
    draft = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(page, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise WarehouseError(f"cannot write {path}: {error}; free space or choose WAREHOUSE=/path") from error
    return path


def render(warehouse: Warehouse, folder: Path) -> str:
    """The page as one HTML text; `folder` is where it will lie."""
    boards, broken = standings(warehouse)
    paint = colours(boards)
    sets = [question_set(board, paint, warehouse) for board in boards]
    models = list(dict.fromkeys(e.name for board in boards for e in board.entries if e.name == e.model))
    return rendered(
        "leaderboard.html.j2",
        boards=boards,
        broken=broken,
        paint=paint,
        models=models,
        of={(board.name, entry.name): entry.estimate for board in boards for entry in board.entries},
        headline=headline(boards),
        findings=[finding(board) for board in boards],
        baselines={board.name: baselines(board.entries[0]) for board in boards},
        curves={board.name: figures.frames_curve(board.entries, paint) for board in boards},
        tries={(board.name, entry.name): tries(entry) for board in boards for entry in board.entries},
        points=lambda gain: points(gain).removesuffix(" points"),
        p_value=p_value,
        report=(folder / "latest" / "index.html").is_file(),
        questions=browser.document(sets, Clips(warehouse.cache("clips")), folder) if sets else None,
    )


def baselines(entry: Entry) -> list[tuple[str, float]]:
    """What is right without seeing anything, by name; open questions have no such thing."""
    rows = entry.rows.filter(pl.col("options").list.len() > 0)
    letter = majority(rows["gold"].to_list(), rows["video"].to_list())
    if entry.chance is None or letter is None or rows.height < entry.rows.height:
        return []
    return [("chance", entry.chance), (f"always {letter[0]}", letter[1].mean)]


def headline(boards: Sequence[Board]) -> str:
    """How many models and benchmarks there are, in one sentence."""
    if not boards:
        return "No benchmark has been evaluated yet."
    models = len({entry.model for board in boards for entry in board.entries})
    told = boards[0].title if len(boards) == 1 else f"{len(boards)} benchmarks"
    return f"{models} model{'' if models == 1 else 's'} on {told}"


def finding(board: Board) -> str:
    """Who is best on a benchmark, and how far the next one is behind, with its p-value."""
    best = board.entries[0]
    text = f"{board.title}: {best.name} is right on {percent(best.estimate.mean, best.estimate.se)}%"
    if len(board.entries) < 2:
        return f"{text}."
    found, second = board.behind[1], board.entries[1].name
    if found is None:
        return f"{text}; it shares no question with {second}."
    chances = f"p {p_value(found.p)} on {found.gain.count} questions that both were asked"
    return f"{text}; {second} differs by {points(found.gain)} ({chances})."


def p_value(p: float) -> str:
    """A p-value as people write it.

    >>> p_value(0.0312), p_value(0.00005)
    ('= 0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.2g}" if p >= 0.1 else f"= {p:.3f}"


def tries(entry: Entry) -> tuple[int, Estimate, Estimate, Agreement | None] | None:
    """(k, share of samples right, pass@k, agreement) of a model's k samples a question; None without samples."""
    samples = paired(entry.samples)
    if samples.is_empty():
        return None
    k = int(entry.samples["sample"].n_unique())
    first, best = pass_at(samples, 1), pass_at(samples, k)
    assert first is not None
    assert best is not None
    return k, first, best, agreement(samples) if k > 1 else None


def colours(boards: Sequence[Board]) -> dict[str, str]:
    """A CSS colour for each model, the same on all boards; base, SFT and RL have those of the report."""
    names = sorted({entry.name for board in boards for entry in board.entries})
    others = [name for name in names if name not in MODELS]
    return {name: name for name in names if name in MODELS} | {
        name: f"m{place % COLOURS}" for place, name in enumerate(others)
    }


def question_set(board: Board, paint: dict[str, str], warehouse: Warehouse) -> QuestionSet:
    """The questions that any of the models was asked, in the order of the publisher's file."""
    names = [entry.name for entry in board.entries]
    columns = ("item_id", "row", "video", "video_id", "path", "start", "end", "question", "options", "groups", "gold")
    asked = pl.concat([entry.rows.select(columns) for entry in board.entries]).unique("item_id", keep="first")
    rows = asked.sort("row", "item_id").to_dicts()
    said = answers_of(
        names,
        {(row["item_id"], entry.name): row for entry in board.entries for row in entry.rows.to_dicts()},
        {(item, entry.name): counts for entry in board.entries for item, counts in drawn(entry).items()},
    )
    questions = [
        Question(
            film=row["video"],
            text=row["question"],
            options=row["options"],
            gold=row["gold"],
            groups=json.loads(row["groups"]),
            answers=said(row["item_id"]),
            spans=[(row["start"], row["end"])] if row["start"] is not None and row["end"] is not None else [],
        )
        for row in rows
    ]
    models = [(name, paint[name]) for name in names]
    pair = (1, 0) if len(names) > 1 else (0, 0)
    return QuestionSet(board.title, models, films_of(rows, warehouse), questions, pair)


def drawn(entry: Entry) -> dict[str, tuple[int, int]]:
    """(right, drawn) samples of each item."""
    counts = entry.samples.group_by("item_id").agg(pl.col("correct").sum(), drawn=pl.len())
    return {item: (right, count) for item, right, count in counts.iter_rows()}


def films_of(rows: Sequence[dict[str, object]], warehouse: Warehouse) -> dict[str, Film]:
    """The films of these rows by the publisher's names; sizes and lengths are known from the evaluation."""
    found = {str(row["video"]): row for row in reversed(rows)}
    files = {str(row["video_id"]): Path(str(row["path"])) for row in found.values() if row["video_id"] and row["path"]}
    there = {digest: path for digest, path in files.items() if path.is_file()}
    ledger = warehouse.ledger("ingest")
    try:
        probes = probes_of(there, ledger, IngestSettings(workers=1))
    finally:
        ledger.close()
    films = {}
    for video, row in found.items():
        if row["path"] is None or row["video_id"] is None:
            films[video] = Film(video, problem="its video is not in the folder")
            continue
        probe = probes.get(str(row["video_id"]), {"reason": "the film's file is gone"})
        if "reason" in probe:
            films[video] = Film(video, problem=str(probe["reason"]))
            continue
        size = (probe["width"], probe["height"])
        films[video] = Film(video, str(row["video_id"]), str(row["path"]), size, probe["duration"])
    return films
