"""Curation: which questions go on, in which split, with which letter.

Everything happens in DuckDB, on disk, with a limit to its memory; rows come in and go out in batches of Parquet. A rule
is one file, `longrl/data/rules/<order>_<name>.sql`: a query over the tables below that returns (question_id, reason)
rows. Rules run in the order of their numbers and each sees only what the ones before let through, so that a duplicate
is only dropped for the sake of a question that stays, and every question ends either in the output or in the rejects
with exactly one rule and reason.

    questions (QUESTIONS, position, gold)   what is left; `gold` is the right option's text or the open answer
    clips (video_id, index)                 what evidence may cite
    verdicts                                of the stage `verify`, where it ran
    benchmark_videos, benchmark_grams, video_names, near_duplicates, same_meanings
                                            made by `prepare` for the rules that read them, when these are on
    getvariable('<setting>')                numbers of CurateSettings, and the seed

What is left is split *by video* (no video is in two splits) and its key is balanced: in every split each letter is
right equally often, over all and in each category, to within one question. (LongVideo-Reason's key is 44% "B".)
Options have no letters before this stage: where a text names an option with its letter, "red (B)", the letter moves
along with the option; any other mention of a letter is a reject.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from longrl.config import ConfigError, CurateSettings
from longrl.data import contamination, duplicates
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from longrl.warehouse.ledger import Ledger

VERSION = 3
RULES = Path(__file__).parent / "rules"
BATCH = 50_000  # rows in memory at a time, and of one part of the output
VARIABLES = ("benchmark_ngram", "benchmark_share", "blind_threshold", "category_cap")  # settings that rules ask for

MACROS = r"""
CREATE MACRO normalised(text) AS trim(regexp_replace(lower(text), '[^\p{L}\p{N}]+', ' ', 'g'));
CREATE MACRO content_words(text) AS list_filter(string_split(normalised(text), ' '), lambda word: NOT list_contains(
    ['a', 'an', 'the', 'is', 'are', 'was', 'were', 'do', 'does', 'did', 'of', 'in', 'at', 'to', 'this', 'that',
     'video', 'film', 'clip', 'scene', 'shown', 'seen'], word));
"""

# Seeded places: gold options take the letters in turn along the category-ordered, hashed list of a split's questions
# (so each category is a run of the cycle).
PLACES = """
CREATE TABLE places AS
SELECT position, (row_number() OVER (
    PARTITION BY split, len(options) ORDER BY category, sha256(getvariable('seed') || question_id)
) - 1) % len(options) + 1 AS place
FROM questions JOIN splits USING (video_id) WHERE kind = 'choice'
"""

# Gold options go to their places, the others follow in hashed order; open questions have none.
BALANCED = """
SELECT * EXCLUDE (others, place, gold) REPLACE (
    CASE WHEN place IS NULL THEN options ELSE others[:place - 1] || [gold] || others[place:] END AS options,
    CASE WHEN place IS NULL THEN answer ELSE chr(64 + place::INTEGER) END AS answer
), options AS old_options, NULL::DOUBLE AS pass_rate
FROM (
    SELECT *, list_transform(list_sort(list_transform(
        list_filter(options, lambda text, number: number <> ascii(answer) - 64),
        lambda text: {'order': sha256(getvariable('seed') || question_id || text), 'text': text}
    )), lambda pair: pair.text) AS others
    FROM questions JOIN splits USING (video_id) LEFT JOIN places USING (position)
    WHERE position >= $start AND position < $start + $rows
)
ORDER BY position
"""


def curate(
    settings: CurateSettings,
    captions: ArtifactRef,
    questions: ArtifactRef,
    warehouse: Warehouse,
    seed: int,
    videos: ArtifactRef | None = None,
    verdicts: ArtifactRef | None = None,
) -> ArtifactRef:
    """Filter, split and balance the questions of `questions`; the clips of `captions` are what evidence may cite.

    `videos` (of `ingest`) are wanted where `benchmarks` are given, to know a video by its file's name; `verdicts` are
    what the stage `verify` made. The artifact's table is DATASET in the order of the input; `rows + rejects` is the
    number of questions that came in. Facts: rejects of every rule that ran; questions, videos, categories and letters
    of the key by split; the key as it was written. Raises `ConfigError` for an unknown rule in `disabled_rules`, a
    benchmark file that is missing or cannot be read, or shares that add up to more than 1; `TeacherUnavailable` when
    the server of embeddings is out of reach.
    """
    rules = active_rules(settings, verdicts is not None)
    if settings.sft_share + settings.eval_share > 1.0 + 1e-9:
        total = settings.sft_share + settings.eval_share
        raise ConfigError(f"curate.sft_share + curate.eval_share is {total:g}; together they may be at most 1")
    benchmarks = contamination.digests(settings.benchmarks)

    def build(draft: Draft) -> None:
        with database(draft.folder / ".curate", settings) as connection:
            define(connection, settings, seed)
            load(connection, captions, questions, verdicts)
            written = connection.sql(
                "SELECT answer, count(*) FROM questions WHERE kind = 'choice' GROUP BY 1 ORDER BY 1"
            )
            draft.facts["key_as_written"] = dict(written.fetchall())
            for name, query in rules.items():
                prepare(name, connection, settings, videos, draft.ledger)
                apply_rule(connection, name, query)
            store_splits(connection, settings, seed)
            connection.execute(PLACES)
            write(connection, draft)
            draft.facts |= facts(connection, rules)

    inputs: dict[str, ArtifactRef | str] = {"captions": captions, "questions": questions, **benchmarks}
    inputs |= {name: ref for name, ref in (("videos", videos), ("verdicts", verdicts)) if ref is not None}
    parts = {"curate": settings, "seed": seed, "rules": rules}
    return warehouse.produce("curate", VERSION, parts, inputs, build)


def chosen_rules(disabled: tuple[str, ...] = ()) -> dict[str, str]:
    """The SQL of every rule that is not disabled, by name, in the order they run."""
    rules = {path.stem.split("_", 1)[1]: path.read_text() for path in sorted(RULES.glob("[0-9]*_*.sql"))}
    if unknown := sorted(set(disabled) - set(rules)):
        raise ConfigError(f"curate.disabled_rules: no rule {', '.join(unknown)}; the rules are: {', '.join(rules)}")
    return {name: query for name, query in rules.items() if name not in disabled}


def active_rules(settings: CurateSettings, verified: bool) -> dict[str, str]:
    """The chosen rules without those that have nothing to go by: no benchmarks, no verdicts, no embeddings, no cap."""
    idle: set[str] = set()
    idle |= set() if settings.benchmarks else {"benchmark_video", "benchmark_question"}
    idle |= set() if verified else {"answered_blind", "judged_bad", "unverified"}
    idle |= set() if settings.embedding_threshold else {"same_meaning"}
    idle |= set() if settings.category_cap else {"category_cap"}
    return {name: query for name, query in chosen_rules(settings.disabled_rules).items() if name not in idle}


@contextmanager
def database(folder: Path, settings: CurateSettings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB file in `folder` that keeps to its memory; the folder is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    folder.mkdir()
    options: dict[str, Any] = {
        "threads": settings.threads,
        "memory_limit": f"{settings.memory_mib}MiB",
        "temp_directory": str(folder / "spilled"),
        "preserve_insertion_order": False,
    }
    try:
        with duckdb.connect(folder / "curate.duckdb", config=options) as connection:
            yield connection
    finally:
        shutil.rmtree(folder)


def define(connection: duckdb.DuckDBPyConnection, settings: CurateSettings, seed: int) -> None:
    """The macros and variables that rules use."""
    connection.execute(MACROS)
    connection.execute(contamination.MACROS)
    connection.execute(duplicates.MACROS)
    connection.execute("SET VARIABLE seed = ?", [str(seed)])
    for name in VARIABLES:
        connection.execute(f"SET VARIABLE {name} = ?", [getattr(settings, name)])


def load(
    connection: duckdb.DuckDBPyConnection, captions: ArtifactRef, questions: ArtifactRef, verdicts: ArtifactRef | None
) -> None:
    """Make the tables that rules see: `clips`, `verdicts`, and `questions` with two more columns: `position`, the
    row's number, and `gold`, the right option's text (null when there is no such option) or the open answer."""
    insert(connection, "clips", captions, ["video_id", "index"])
    insert(connection, "incoming", questions)
    connection.execute("""
        CREATE TABLE questions AS SELECT *, CASE
            WHEN kind = 'open' THEN answer WHEN len(answer) = 1 THEN options[ascii(answer) - 64] END AS gold
        FROM incoming ORDER BY position
    """)
    connection.execute("DROP TABLE incoming")
    twice = connection.sql("SELECT question_id FROM questions GROUP BY 1 HAVING count(*) > 1 LIMIT 5").fetchall()
    if twice:
        names = ", ".join(name for (name,) in twice)
        raise schemas.SchemaError(f"{questions.path}: column 'question_id' is not unique: {names}")
    if verdicts is not None:
        insert(connection, "verdicts", verdicts)
    connection.execute("CREATE TABLE rejects (position BIGINT, question_id VARCHAR, rule VARCHAR, reason VARCHAR)")


def insert(
    connection: duckdb.DuckDBPyConnection, table: str, ref: ArtifactRef, columns: list[str] | None = None
) -> None:
    """Make `table` of an artifact's rows, batch by batch, with their number as `position`."""
    empty = schemas.empty(ref.stage).select(columns or pl.all()).with_row_index("position").to_arrow()
    connection.register("batch", empty)
    connection.execute(f"CREATE TABLE {table} AS SELECT * REPLACE (position::BIGINT AS position) FROM batch")
    start = 0
    for frame in ref.batches(columns, BATCH):
        connection.register("batch", frame.with_row_index("position", offset=start).to_arrow())
        connection.execute(f"INSERT INTO {table} SELECT * FROM batch")
        start += frame.height
    connection.unregister("batch")


def prepare(
    rule: str,
    connection: duckdb.DuckDBPyConnection,
    settings: CurateSettings,
    videos: ArtifactRef | None,
    ledger: Ledger,
) -> None:
    """Make the tables that a rule reads beside those of `load`."""
    match rule:
        case "benchmark_video":
            contamination.store_videos(connection, settings.benchmarks, videos)
        case "benchmark_question":
            contamination.store_grams(connection, settings.benchmarks)
        case "near_duplicate":
            duplicates.by_text(connection, settings.near_duplicate_threshold)
        case "same_meaning":
            duplicates.by_meaning(connection, settings, ledger)


def apply_rule(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """Move the questions that a rule names from `questions` to `rejects`."""
    connection.execute(
        f"CREATE TEMP TABLE named AS SELECT question_id, min(reason) AS reason FROM ({query}\n) GROUP BY 1"
    )
    connection.execute(
        "INSERT INTO rejects SELECT position, question_id, ?, reason FROM named JOIN questions USING (question_id)",
        [name],
    )
    connection.execute("DELETE FROM questions WHERE question_id IN (SELECT question_id FROM named)")
    connection.execute("DROP TABLE named")


def store_splits(connection: duckdb.DuckDBPyConnection, settings: CurateSettings, seed: int) -> None:
    """Make the table `splits` (video_id, split): the videos that still have questions, in seeded hash order."""
    videos = [video for (video,) in connection.sql("SELECT DISTINCT video_id FROM questions").fetchall()]
    videos.sort(key=lambda video: hashlib.sha256(f"{seed}{video}".encode()).digest())
    counts = split_counts(len(videos), settings.sft_share, settings.eval_share)
    names = [name for name in ("eval", "sft", "rl") for _ in range(counts[name])]
    frame = pl.DataFrame({"video_id": videos, "split": names}, schema={"video_id": pl.String, "split": pl.String})
    connection.register("incoming_splits", frame.to_arrow())
    connection.execute("CREATE TABLE splits AS SELECT * FROM incoming_splits")


def split_counts(videos: int, sft_share: float, eval_share: float) -> dict[str, int]:
    """Number of videos in each split; with few videos sft, then eval, then rl get one before any gets its share.

    >>> split_counts(720, 0.6, 0.1)
    {'sft': 432, 'eval': 72, 'rl': 216}
    >>> split_counts(2, 0.6, 0.1)
    {'sft': 1, 'eval': 1, 'rl': 0}
    """
    shares = {"sft": sft_share, "eval": eval_share, "rl": max(0.0, 1.0 - sft_share - eval_share)}
    counts = dict.fromkeys(shares, 0)
    for _ in range(videos):
        empty = [name for name, share in shares.items() if share > 1e-9 and not counts[name]]
        behind = max(shares, key=lambda name: shares[name] * videos - counts[name])
        counts[empty[0] if empty else behind] += 1
    return counts


def write(connection: duckdb.DuckDBPyConnection, draft: Draft) -> None:
    """The questions that are left, balanced, in parts of the artifact; the others among its rejects."""
    draft.reject_many(connection.sql("SELECT question_id AS item, rule, reason FROM rejects ORDER BY position").pl())
    ((last,),) = connection.sql("SELECT coalesce(max(position), 0) FROM questions").fetchall()
    for start in range(0, last + 1, BATCH):
        rows = relabelled(connection.sql(BALANCED, params={"start": start, "rows": BATCH}).pl())
        draft.write(rows.select(name for name in schemas.DATASET if name != "media"))  # all of videos


def relabelled(dataset: pl.DataFrame) -> pl.DataFrame:
    """Move the letters in `reasoning` and `conclusion` along with their options (see `relabel`)."""
    old, new = dataset["old_options"].to_list(), dataset["options"].to_list()
    columns = {
        name: [relabel(text, *options) for text, *options in zip(dataset[name].to_list(), old, new, strict=True)]
        for name in ("reasoning", "conclusion")
    }
    return dataset.with_columns(pl.Series(name, texts, dtype=pl.String) for name, texts in columns.items())


def relabel(text: str, old: list[str], new: list[str]) -> str:
    """Give every "<option> (<its letter>)" in a text the letter of the option's place in `new`.

    >>> relabel("first red, then blue, so blue (A)", ["blue", "red"], ["red", "blue"])
    'first red, then blue, so blue (B)'
    """

    def moved(letter: re.Match[str]) -> str:
        place = ord(letter[1]) - 65
        if place >= len(old) or not text.endswith(f"{old[place]} ", 0, letter.start()):
            return letter[0]
        return f"({chr(65 + new.index(old[place]))})"

    return re.sub(r"\(([A-Z])\)", moved, text)


def facts(connection: duckdb.DuckDBPyConnection, rules: dict[str, str]) -> dict[str, Any]:
    """Rejects of each rule that ran; questions, videos, categories and the key's letters by split."""
    rejected = dict(connection.sql("SELECT rule, count(*) FROM rejects GROUP BY rule").fetchall())
    per_split = connection.sql("""
        SELECT split, count(*), count(DISTINCT video_id)
        FROM questions JOIN splits USING (video_id) GROUP BY 1 ORDER BY 1
    """).fetchall()
    categories = connection.sql("""
        SELECT split, category, count(*) FROM questions JOIN splits USING (video_id) GROUP BY ALL ORDER BY ALL
    """).fetchall()
    letters = connection.sql("""
        SELECT split, chr(64 + place::INTEGER), count(*)
        FROM questions JOIN splits USING (video_id) JOIN places USING (position) GROUP BY ALL ORDER BY ALL
    """).fetchall()
    return {
        "rejected": {name: rejected.get(name, 0) for name in rules},
        "questions": {split: questions for split, questions, _ in per_split},
        "videos": {split: videos for split, _, videos in per_split},
        "categories": nested(categories),
        "key": nested(letters),
    }


def nested(rows: list[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """Counts by split and something else."""
    counts: dict[str, dict[str, int]] = {}
    for split, name, number in rows:
        counts.setdefault(split, {})[name] = number
    return counts
