"""Curation: which questions go on, in which split, with which letter.

Everything happens in DuckDB. A rule is one file, `longrl/data/rules/<order>_<name>.sql`: a query over `questions` and
`clips` that returns (question_id, reason) rows. Rules run in the order of their numbers and each sees only what the
ones before let through, so that a duplicate is only dropped for the sake of a question that stays, and every question
ends either in the output or in the rejects with exactly one rule and reason.

What is left is split *by video* (no video is in two splits) and its key is balanced: in every split each letter is
right equally often, over all and in each category, to within one question. (LongVideo-Reason's key is 44% "B".)
Options have no letters before this stage: where a text names an option with its letter, "red (B)", the letter moves
along with the option; any other mention of a letter is a reject.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import duckdb
import polars as pl

from longrl.config import ConfigError, CurateSettings
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 2
RULES = Path(__file__).parent / "rules"

MACROS = r"""
CREATE MACRO normalised(text) AS trim(regexp_replace(lower(text), '[^\p{L}\p{N}]+', ' ', 'g'));
CREATE MACRO content_words(text) AS list_filter(string_split(normalised(text), ' '), lambda word: NOT list_contains(
    ['a', 'an', 'the', 'is', 'are', 'was', 'were', 'do', 'does', 'did', 'of', 'in', 'at', 'to', 'this', 'that',
     'video', 'film', 'clip', 'scene', 'shown', 'seen'], word));
"""

# Seeded places: gold options take the letters in turn along the category-ordered, hashed list of a split's questions
# (so each category is a run of the cycle), the other options follow in hashed order.
BALANCED = """
WITH turned AS (
    SELECT *, (row_number() OVER (
        PARTITION BY split, len(options) ORDER BY category, sha256($seed || question_id)
    ) - 1) % len(options) + 1 AS place
    FROM questions JOIN splits USING (video_id)
),
shuffled AS (
    SELECT *, list_transform(list_sort(list_transform(
        list_filter(options, lambda text: text <> gold),
        lambda text: {'order': sha256($seed || question_id || text), 'text': text}
    )), lambda pair: pair.text) AS others
    FROM turned
)
SELECT * REPLACE (
    others[:place - 1] || [gold] || others[place:] AS options,
    chr(64 + place::INTEGER) AS answer
), options AS old_options
FROM shuffled ORDER BY position
"""


def curate(
    settings: CurateSettings, captions: ArtifactRef, questions: ArtifactRef, warehouse: Warehouse, seed: int
) -> ArtifactRef:
    """Filter, split and balance the questions of `questions`; the clips of `captions` are what evidence may cite.

    The artifact's table is DATASET in the order of the input; `rows + rejects` is the number of questions that came in.
    Facts: rejects by rule, questions and videos by split. Raises `ConfigError` for an unknown rule in
    `disabled_rules` or shares that add up to more than 1.
    """
    rules = chosen_rules(settings.disabled_rules)
    if settings.sft_share + settings.eval_share > 1.0 + 1e-9:
        total = settings.sft_share + settings.eval_share
        raise ConfigError(f"curate.sft_share + curate.eval_share is {total:g}; together they may be at most 1")

    def build(draft: Draft) -> None:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 2")
            load(connection, captions.table(), questions.table())
            for name, query in rules.items():
                apply_rule(connection, name, query)
            rejects = connection.sql("SELECT question_id, rule, reason FROM rejects ORDER BY position").fetchall()
            for item, rule, reason in rejects:
                draft.reject(item, rule, reason)
            store_splits(connection, settings, seed)
            dataset = relabelled(connection.sql(BALANCED, params={"seed": str(seed)}).pl())
            draft.write(dataset.select(*questions.table().columns, "split"))
            by_rule = connection.sql("SELECT rule, count(*) FROM rejects GROUP BY rule ORDER BY rule").fetchall()
            draft.facts["rejected"] = dict(by_rule)
            draft.facts["questions"] = dict(dataset["split"].value_counts().sort("split").iter_rows())
            videos = dataset.group_by("split").agg(pl.col("video_id").n_unique()).sort("split")
            draft.facts["videos"] = dict(videos.iter_rows())

    return warehouse.produce(
        "curate",
        VERSION,
        {"curate": settings, "seed": seed, "rules": rules},
        {"captions": captions, "questions": questions},
        build,
    )


def chosen_rules(disabled: tuple[str, ...] = ()) -> dict[str, str]:
    """The SQL of every rule that is not disabled, by name, in the order they run."""
    rules = {path.stem.split("_", 1)[1]: path.read_text() for path in sorted(RULES.glob("[0-9]*_*.sql"))}
    if unknown := sorted(set(disabled) - set(rules)):
        raise ConfigError(f"curate.disabled_rules: no rule {', '.join(unknown)}; the rules are: {', '.join(rules)}")
    return {name: query for name, query in rules.items() if name not in disabled}


def load(connection: duckdb.DuckDBPyConnection, captions: pl.DataFrame, questions: pl.DataFrame) -> None:
    """Make the tables that rules see: `clips`, and `questions` with two more columns: `position`, the row's number,
    and `gold`, the right option's text (null when the letter is beyond the options)."""
    connection.execute(MACROS)
    connection.register("incoming_clips", captions.to_arrow())
    connection.register("incoming_questions", questions.with_row_index("position").to_arrow())
    connection.execute("CREATE TABLE clips AS SELECT * FROM incoming_clips")
    connection.execute(
        "CREATE TABLE questions AS SELECT *, options[ascii(answer) - 64] AS gold FROM incoming_questions"
    )
    connection.execute("CREATE TABLE rejects (position BIGINT, question_id VARCHAR, rule VARCHAR, reason VARCHAR)")


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
