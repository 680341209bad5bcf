"""Versions of a dataset: what a corpus that changes adds, removes and changes, and what it does not compute again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from longrl import cli
from longrl.config import load_config
from longrl.data.caption import caption
from longrl.data.curate import curate
from longrl.data.difference import difference
from longrl.data.ingest import ingest
from longrl.data.reason import reason
from longrl.data.segment import segment
from longrl.video import stories
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.schemas import empty
from longrl.warehouse.versions import VersionError, version_of

STAGES = ("ingest", "caption", "reason")  # those that keep a ledger here


def question(number: int, **changes) -> dict:
    return {
        "question_id": f"q{number}",
        "video_id": f"v{number // 2}",
        "category": "goal",
        "kind": "choice",
        "question": f"Why {number}?",
        "options": ["red", "blue"],
        "answer": "A",
        "reasoning": "It is red.",
        "conclusion": "",
        "evidence": [0],
        "teacher": "test",
        "split": "sft",
    } | changes


def version(warehouse: Warehouse, rows: list[dict]) -> ArtifactRef:
    frame = pl.DataFrame(rows, schema=empty("curate").schema)
    return warehouse.produce("curate", 1, {}, {"rows": json.dumps(rows)}, lambda draft: draft.write(frame))


@pytest.fixture
def versions(warehouse) -> tuple[ArtifactRef, ArtifactRef]:
    old = version(warehouse, [question(0), question(1), question(2), question(3)])
    changed = question(2, options=["blue", "red"], answer="B", evidence=[0, 1])
    return old, version(warehouse, [question(4, split="eval"), changed, question(1), question(3, split="rl")])


def test_rows_added_removed_and_changed_by_column(versions):
    found = difference(*versions)
    assert found.added["question_id"].to_list() == ["q4"]
    assert found.removed["question_id"].to_list() == ["q0"]
    assert dict(found.changed.select("question_id", "columns").iter_rows()) == {
        "q2": ["options", "answer", "evidence"],
        "q3": ["split"],
    }
    assert found.same == 1
    assert found.columns() == {"answer": 1, "evidence": 1, "options": 1, "split": 1}


def test_a_version_and_itself_do_not_differ(versions):
    found = difference(versions[0], versions[0])
    assert (found.added.height, found.removed.height, found.changed.height, found.same) == (0, 0, 0, 4)


def test_the_command_prints_counts_rows_and_json(versions, warehouse, capsys):
    old, new = versions
    root = ["--warehouse", str(warehouse.root)]
    assert cli.main(["diff", "latest~1", "latest", "--list", "changed", "--limit", "1", *root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{old.key} (4 rows) -> {new.key} (4 rows)"
    assert lines[1].split() == ["added", "1", "eval", "1"]
    assert lines[-2:] == ["q2  video v1  options, answer, evidence", "... and 1 more"]
    assert cli.main(["diff", old.key[:8], new.path, "--json", *root]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"added": 1, "removed": 1, "changed": 2, "same": 1}
    assert document["changed"]["q3"] == ["split"]


@pytest.mark.parametrize("name", ["latest~2", "nothing", "latest~x"])
def test_an_unknown_version_names_those_there_are(name, versions, warehouse):
    with pytest.raises(VersionError, match=f"newest first: {versions[1].key}, {versions[0].key}"):
        version_of(warehouse, name)


def test_a_folder_that_is_no_dataset_is_a_clear_error(versions, warehouse, tmp_path):
    with pytest.raises(VersionError, match=r"holds no manifest.json; name an artifact's folder"):
        version_of(warehouse, str(tmp_path))
    other = warehouse.produce("segment", 1, {}, {}, lambda draft: None)
    with pytest.raises(VersionError, match="is an artifact of segment, not a dataset"):
        version_of(warehouse, other.path)


def test_a_corpus_that_changes_computes_only_what_is_new(warehouse, tmp_path):
    """Three films; then one is added, one is changed, and one is taken away."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.mp4", 0), film(folder / "b.mp4", 1), film(folder / "c.mp4", 2)
    videos, old = run(warehouse, folder)
    before = ledgers(warehouse)
    film(folder / "d.mp4", 3), film(folder / "b.mp4", 4)
    (folder / "c.mp4").unlink()
    new_videos, new = run(warehouse, folder)
    wrote = {stage: len(rows - before[stage]) for stage, rows in ledgers(warehouse).items()}
    clips = len(stories.make_story(3, scenes=3).scenes) + len(stories.make_story(4, scenes=3).scenes)
    assert wrote == {"ingest": 4, "caption": clips, "reason": 2}  # a digest and a probe of each of two films
    assert all(before[stage] <= rows for stage, rows in ledgers(warehouse).items())

    found = difference(old, new)
    kept, gone, come = (set(ids) for ids in partition(videos, new_videos))
    assert (len(kept), len(gone), len(come)) == (1, 2, 2)
    assert set(new.table()["video_id"]) == kept | come
    assert set(found.removed["video_id"]) == gone
    assert set(found.added["video_id"]) == come
    assert found.same + found.changed.height == old.table().filter(pl.col("video_id").is_in(kept)).height
    assert set(found.columns()) <= {"options", "answer", "reasoning", "conclusion", "split"}  # what balancing moves


def film(path: Path, seed: int) -> None:
    stories.write_one((path, seed, 3, False))


def run(warehouse: Warehouse, folder: Path) -> tuple[ArtifactRef, ArtifactRef]:
    """The stages of the data half; returns the videos and the dataset."""
    config = load_config("tiny")
    videos = ingest(config.ingest, folder, warehouse)
    captions = caption(config.caption, videos, segment(config.segment, videos, warehouse), warehouse)
    questions = reason(config.reason, captions, warehouse, seed=0)
    return videos, curate(config.curate, captions, questions, warehouse, seed=0)


def partition(old: ArtifactRef, new: ArtifactRef) -> tuple[set[str], set[str], set[str]]:
    before, after = set(old.table()["video_id"]), set(new.table()["video_id"])
    return before & after, before - after, after - before


def ledgers(warehouse: Warehouse) -> dict[str, set[tuple[int, str]]]:
    """Row numbers and keys of each ledger; a row that is written again gets a new number."""
    found = {}
    for stage in STAGES:
        with sqlite3.connect(warehouse.root / stage / "ledger.sqlite") as connection:
            found[stage] = set(connection.execute("SELECT rowid, key FROM items"))
    return found


def test_a_few_more_videos_move_few_of_the_others_to_another_split(warehouse):
    """Shares are exact, so the borders between splits shift by a video at most for each one that comes or goes."""

    def splits(count: int) -> dict[str, str]:
        rows = [question(number, video_id=f"v{number}") for number in range(count)]
        frame = pl.DataFrame(rows).select(empty("reason").columns)
        questions = warehouse.produce("reason", 1, {}, {"n": str(count)}, lambda draft: draft.write(frame))
        captions = warehouse.produce("caption", 1, {}, {}, lambda draft: draft.write(empty("caption")))
        settings = load_config("tiny", {"curate.disabled_rules": ["evidence_exists"]}).curate
        return dict(curate(settings, captions, questions, warehouse, seed=0).table().select("video_id", "split").rows())

    before, after = splits(200), splits(205)
    moved = [video for video in before if before[video] != after[video]]
    assert len(before) == 200
    assert len(after) == 205
    assert len(moved) <= 2 * 5
