"""Near-duplicate questions, within a video and across videos, by text (MinHash) and by meaning (embeddings).

What is compared is the whole item: the question, its options in alphabetical order and its reasoning. Templates ask the
same question of many videos, and that is no duplicate; an item that also reasons in the same words is. Two items with
different answers are never duplicates. A later item leaves for the sake of an earlier one that stays.

By text: five-word shingles are sketched with MinHash (rensa), sketches are cut into bands, and items that share a band
(and the answer) are compared by their true Jaccard similarity: the sketch decides what is looked at, never what is
dropped. In a bucket each item is compared with the first one and with the one before it, not with all: a cluster of a
thousand copies costs two thousand comparisons. The default threshold, 0.9, is above everything that different stories
of the default run have in common (0.85 at most in 5,400 questions of three seeds).

By meaning: every vector is compared with every one, in blocks. That is exact and quadratic: for tens of thousands of
questions, not for a million.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import polars as pl
import rensa
from openai.types import CreateEmbeddingResponse

from longrl.config import CurateSettings
from longrl.teachers.base import TeacherError, TeacherUnavailable
from longrl.teachers.connection import Connection
from longrl.warehouse.ledger import Ledger, item_key

PERMUTATIONS = 128
CERTAINTY = 0.995  # least probability that two items at the threshold share a band
BATCH = 20_000  # items sketched at a time
BLOCK = 2_048  # vectors compared at a time
TEXTS = 64  # texts of one request for embeddings
LONGEST_BODY = 64 * 2**20  # bytes of its answer

# The five-word shingles of a list of words, as hashes. (A lambda computes a macro's argument anew: give a column.)
MACROS = """
CREATE MACRO shingles(words) AS list_distinct(CASE WHEN len(words) < 5 THEN [hash(words)] ELSE list_transform(
    range(1, len(words) - 3),
    lambda i: hash(words[i], words[i + 1], words[i + 2], words[i + 3], words[i + 4])) END);
"""

# What is compared, and the answer that must be the same (an open one is compared with the text).
ITEMS = """
CREATE OR REPLACE VIEW items AS
SELECT *, string_split(normalised(text), ' ') AS words FROM (
    SELECT position, CASE WHEN kind = 'open' THEN '' ELSE normalised(gold) END AS same,
           CASE WHEN kind = 'open' THEN [answer] ELSE list_sort(options) END AS answers,
           concat_ws(' ', question, array_to_string(answers, ' '), reasoning) AS text
    FROM questions
)
"""


def by_text(connection: duckdb.DuckDBPyConnection, threshold: float) -> None:
    """Make `near_duplicates` (position, other, similarity) of `questions`: the item at `position` is to leave for the
    one at `other`, whose shingles have at least the Jaccard similarity `threshold` with its own."""
    connection.execute(ITEMS)
    bands, width = banding(threshold)
    columns = [f"band{number}" for number in range(bands)]
    connection.execute(f"CREATE TEMP TABLE sketches (position BIGINT, {', '.join(f'{c} UBIGINT' for c in columns)})")
    for frame in sketches(connection, bands, width):
        connection.register("sketched", frame.to_arrow())
        connection.execute("INSERT INTO sketches SELECT * FROM sketched")
    connection.execute("CREATE TEMP TABLE edges (position BIGINT, other BIGINT)")
    for column in columns:
        connection.execute(f"""
            INSERT INTO edges SELECT position, unnest(list_distinct([earliest, previous])) FROM (
                SELECT position, min(position) OVER bucket AS earliest, lag(position) OVER bucket AS previous
                FROM (SELECT position, {column} FROM sketches
                      WHERE {column} IN (SELECT {column} FROM sketches GROUP BY 1 HAVING count(*) > 1))
                WINDOW bucket AS (PARTITION BY {column} ORDER BY position)
            ) WHERE previous IS NOT NULL
        """)
    connection.execute("DROP TABLE sketches")
    connection.execute("""
        CREATE TEMP TABLE compared AS
        SELECT position, shingles(words) AS shingles FROM items
        WHERE position IN (SELECT position FROM edges UNION ALL SELECT other FROM edges)
    """)
    pairs = connection.execute(
        """
        SELECT position, other, common / (len(mine) + len(theirs) - common) AS similarity FROM (
            SELECT edge.position, other, a.shingles AS mine, b.shingles AS theirs,
                   len(list_intersect(a.shingles, b.shingles)) AS common
            FROM (SELECT DISTINCT * FROM edges) AS edge
            JOIN compared AS a ON a.position = edge.position
            JOIN compared AS b ON b.position = other
        )
        WHERE similarity >= $threshold ORDER BY position, other
        """,
        {"threshold": threshold},
    ).fetchall()
    connection.execute("DROP TABLE edges; DROP TABLE compared")
    store_leaving(connection, "near_duplicates", pairs)


def banding(threshold: float) -> tuple[int, int]:
    """Number of bands and hashes in a band: the widest bands (fewest comparisons) of which two items at the threshold
    share one with `CERTAINTY`: 1 - (1 - threshold^width)^bands (Leskovec et al., Mining of Massive Datasets, 3.4.2).

    >>> banding(0.9)
    (14, 9)
    """
    for width in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // width
        if 1 - (1 - threshold**width) ** bands >= CERTAINTY:
            return bands, width
    return PERMUTATIONS, 1


def sketches(connection: duckdb.DuckDBPyConnection, bands: int, width: int) -> Iterator[pl.DataFrame]:
    """Batches of (position, band0, band1, ...): a band's 64-bit hash takes in its hashes of the sketch, its number
    and the answer."""
    ((last,),) = connection.sql("SELECT coalesce(max(position), -1) FROM questions").fetchall()
    draw = np.random.default_rng(0)
    factors = draw.integers(1, 2**63, size=(bands, width), dtype=np.uint64) | np.uint64(1)
    for start in range(0, last + 1, BATCH):
        batch = connection.sql(f"""
            SELECT position, hash(same) AS same, shingles(words) AS shingles
            FROM items WHERE position >= {start} AND position < {start + BATCH} ORDER BY position
        """).pl()
        if batch.is_empty():
            continue
        offsets = np.concatenate([[0], batch["shingles"].list.len().cum_sum().to_numpy()]).astype(np.uint64)
        hashes = batch["shingles"].explode().to_numpy()
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, 0)
        rows = np.array(matrix.to_rows(), dtype=np.uint64)[:, : bands * width].reshape(-1, bands, width)
        mixed = (rows * factors).sum(axis=2, dtype=np.uint64) + batch["same"].to_numpy()[:, None]
        mixed ^= mixed >> np.uint64(29)
        yield pl.DataFrame({"position": batch["position"]} | {f"band{n}": mixed[:, n] for n in range(bands)})


def by_meaning(connection: duckdb.DuckDBPyConnection, settings: CurateSettings, ledger: Ledger) -> None:
    """Make `same_meanings` (position, other, similarity), as `by_text`, by the cosine of embeddings.

    A text's vector is kept in the ledger. Raises `TeacherUnavailable` when the server is out of reach or refuses one.
    """
    connection.execute(ITEMS)
    table = connection.sql("SELECT position, hash(same) AS same, text FROM items ORDER BY position").pl()
    vectors = embeddings(table["text"].to_list(), EmbeddingServer(settings.server, "curate"), ledger)
    positions, same = table["position"].to_numpy(), table["same"].to_numpy()
    pairs = []
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        cosines = block @ vectors[: start + len(block)].T
        for row, other in zip(*np.nonzero(cosines >= settings.embedding_threshold), strict=True):
            if other < start + row and same[other] == same[start + row]:
                similarity = float(cosines[row, other])
                pairs.append((int(positions[start + row]), int(positions[other]), similarity))
    store_leaving(connection, "same_meanings", sorted(pairs))


def store_leaving(connection: duckdb.DuckDBPyConnection, table: str, pairs: Sequence[tuple[int, int, float]]) -> None:
    """Make `table` (position, other, similarity) of the pairs (in the order of positions) whose later item leaves: the
    earlier one stays. Of several such, the first."""
    leaving: dict[int, tuple[int, int, float]] = {}
    for position, other, similarity in pairs:
        if other not in leaving and position not in leaving:
            leaving[position] = (position, other, similarity)
    columns = {"position": pl.Int64, "other": pl.Int64, "similarity": pl.Float64}
    frame = pl.DataFrame(list(leaving.values()), schema=columns, orient="row")
    connection.register("leaving", frame.to_arrow())
    connection.execute(f"CREATE TABLE {table} AS SELECT * FROM leaving")
    connection.unregister("leaving")


class EmbeddingServer(Connection):
    """An OpenAI-compatible server of embeddings, with the retries and the errors of `Connection`."""

    @property
    def _longest_body(self) -> int:
        return LONGEST_BODY

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One vector for each text; raises `TeacherError` or `TeacherUnavailable` when they cannot be had."""
        page = await self._send(lambda: self._client.embeddings.create(model=self._model, input=texts))
        if not isinstance(page, CreateEmbeddingResponse) or len(page.data) != len(texts):
            raise self._not_a_server()
        self._answered += 1
        return [item.embedding for item in sorted(page.data, key=lambda item: item.index)]


def embeddings(texts: list[str], server: EmbeddingServer, ledger: Ledger) -> np.ndarray:
    """Unit vectors of the texts, float32 (texts, width), from the ledger where it has them."""
    model = server.model
    keys = [item_key("embedding", model, hashlib.sha256(text.encode()).hexdigest()) for text in texts]
    known = ledger.get_many(set(keys))
    missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    batches = [missing[start : start + TEXTS] for start in range(0, len(missing), TEXTS)]

    def on_done(batch: list[tuple[str, str]], vectors: list[list[float]] | TeacherError) -> None:
        if isinstance(vectors, TeacherError):
            raise TeacherUnavailable(f"{server.url} gave no embeddings of {len(batch)} questions: {vectors}")
        for (key, _), vector in zip(batch, vectors, strict=True):
            unit = np.asarray(vector, dtype=np.float32)
            unit /= np.linalg.norm(unit) or 1.0
            known[key] = base64.b64encode(unit.astype(np.float16).tobytes()).decode()
            ledger.put(key, known[key])

    if batches:
        server.run(batches, lambda batch: server.embed([text for _, text in batch]), on_done)
    rows = [np.frombuffer(base64.b64decode(known[key]), dtype=np.float16) for key in keys]
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)
