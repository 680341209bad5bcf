"""Curation on small tables whose outcome is known: each rule, the splits, the key, and counts that add up."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from longrl.config import Categories, ConfigError, CurateSettings
from longrl.data.curate import chosen_rules, curate, relabel, split_counts
from longrl.warehouse import catalog
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from longrl.warehouse.schemas import empty

CLIPS_PER_VIDEO = 3


def question(number: int = 0, video: str = "v0", **changes) -> dict:
    """A row that every rule lets through."""
    return {
        "question_id": f"{video}-q{number}",
        "video_id": video,
        "kind": "choice",
        "category": Categories[number % 4],
        "question": f"Who comes in {number}?",
        "options": ["red box", "blue ball", "green box", "white ball"],
        "answer": "ABCD"[number % 3],
        "reasoning": "At 0:00-0:10 somebody comes in and then leaves.",
        "conclusion": "",
        "evidence": [0, 2],
        "teacher": "test",
    } | changes


def store(warehouse: Warehouse, stage: str, rows: list[dict]) -> ArtifactRef:
    frame = pl.DataFrame(rows, schema=empty(stage).schema)
    return warehouse.produce(stage, 1, {}, {"rows": str(rows)}, lambda draft: draft.write(frame))


def run(warehouse: Warehouse, rows: list[dict], seed: int = 0, **settings) -> ArtifactRef:
    clips = [
        {
            "clip_id": f"{video}-{index}",
            "video_id": video,
            "index": index,
            "start": 10.0 * index,
            "end": 10.0 * index + 10,
            "caption": "A box.",
            "facts": "{}",
            "teacher": "test",
        }
        for video in sorted({row["video_id"] for row in rows})
        for index in range(CLIPS_PER_VIDEO)
    ]
    captions, questions = store(warehouse, "caption", clips), store(warehouse, "reason", rows)
    return curate(CurateSettings(**settings), captions, questions, warehouse, seed)


def corpus(videos: int = 20, each: int = 8) -> list[dict]:
    return [question(number, f"v{video}") for video in range(videos) for number in range(each)]


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


BAD = [
    ("answer_among_options", {"answer": "E"}),
    ("answer_among_options", {"options": ["red box"], "answer": "A"}),
    ("options_distinct", {"options": ["red box", "Red box.", "green box", "white ball"]}),
    ("options_distinct", {"options": ["red box", "-", "green box", "white ball"]}),
    ("evidence_exists", {"evidence": []}),
    ("evidence_exists", {"evidence": [1, CLIPS_PER_VIDEO]}),
    ("reasoning_present", {"reasoning": "Because."}),
    ("mentions_captions", {"question": "Who is named in the second caption?"}),
    ("mentions_captions", {"reasoning": "In frame 7 the box is at the tree."}),
    ("mentions_captions", {"conclusion": "The provided description has no ball."}),
    ("mentions_letters", {"reasoning": "The box comes in last, so option C is right."}),
    ("mentions_letters", {"conclusion": "The answer is B"}),
    ("mentions_letters", {"conclusion": "So it is the red box (B)."}),  # whose letter is A
    ("reasoning_leads_to_answer", {"conclusion": "So the blue ball does.", "answer": "A"}),
    ("reasoning_leads_to_answer", {"conclusion": "the blue ball", "options": ["ball", "blue ball", "x", "y"]}),
]


@pytest.mark.parametrize(("rule", "changes"), BAD)
def test_rule_rejects_what_it_is_for(warehouse, rule, changes):
    made = run(warehouse, [question(0, **changes), question(1)])
    assert made.rejected().select("item", "rule").rows() == [("v0-q0", rule)]
    assert made.table()["question_id"].to_list() == ["v0-q1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "What hangs in the wooden frame?"},
        {"reasoning": "The film opens with a box, described by a narrator."},
        {"conclusion": "Not the blue ball but the red box."},
        {"conclusion": "Nothing else is ever seen."},
        {"conclusion": "So it is the red box (A)."},
        {"reasoning": "The answer is a red box that comes in last."},
        {"evidence": [CLIPS_PER_VIDEO - 1]},
    ],
)
def test_good_wording_passes_every_rule(warehouse, changes):
    assert run(warehouse, [question(0, **changes)]).rejected().is_empty()


def test_every_rule_has_a_case_above(warehouse):
    elsewhere = {"duplicate_question", "near_identical"}
    assert set(chosen_rules()) == {rule for rule, _ in BAD} | elsewhere


def test_same_question_with_shuffled_options_is_a_duplicate(warehouse):
    same = question(1, question="who comes in 0", options=["white ball", "green box", "blue ball", "red box"])
    made = run(warehouse, [question(0), same, question(0, "v1")])
    assert made.rejected().rows() == [
        ("v0-q1", "duplicate_question", "same question and options as v0-q0"),
    ]


def test_near_identical_wording_needs_the_same_order_and_answer(warehouse):
    texts = ["Who follows red after blue?", "Who in the video follows red, after blue?", "Who follows blue after red?"]
    rows = [question(n, question=text, answer="A") for n, text in enumerate(texts)]
    rows[1] = rows[1] | {"options": ["red box", "blue ball", "black box", "white box"]}
    made = run(warehouse, rows)
    assert made.rejected().select("item", "rule").rows() == [("v0-q1", "near_identical")]


def test_a_duplicate_of_a_rejected_question_stays(warehouse):
    made = run(warehouse, [question(0, reasoning="No."), question(0) | {"question_id": "v0-q9"}])
    assert made.table()["question_id"].to_list() == ["v0-q9"]


def test_one_reject_for_a_question_with_two_faults(warehouse):
    made = run(warehouse, [question(0, answer="E", evidence=[9]), question(1)])
    assert (made.rows, made.rejects) == (1, 1)
    assert made.rejected()["reason"].to_list() == ["the answer is E but there are 4 options"]


def test_counts_add_up(warehouse):
    rows = corpus()
    for place in range(0, len(rows), 7):
        rows[place] |= BAD[place % len(BAD)][1]
    made = run(warehouse, rows)
    assert made.rejects > 0
    assert made.rows + made.rejects == len(rows)
    assert sum(made.facts()["rejected"].values()) == made.rejects
    assert sum(made.facts()["questions"].values()) == made.rows
    kept, dropped = set(made.table()["question_id"]), set(made.rejected()["item"])
    assert kept | dropped == {row["question_id"] for row in rows}


def test_a_disabled_rule_lets_its_questions_through(warehouse):
    rows = [question(0, evidence=[]), question(1)]
    assert run(warehouse, rows, disabled_rules=("evidence_exists",)).rows == 2


def test_an_unknown_disabled_rule_names_the_valid_ones(warehouse):
    with pytest.raises(ConfigError, match=r"no rule evidence; the rules are: answer_among_options, .*evidence_exists"):
        run(warehouse, corpus(2), disabled_rules=("evidence",))


def test_shares_over_one_are_an_error(warehouse):
    with pytest.raises(ConfigError, match=r"curate.sft_share \+ curate.eval_share is 1.2"):
        run(warehouse, corpus(2), sft_share=0.8, eval_share=0.4)


def test_no_video_is_in_two_splits(warehouse):
    table = run(warehouse, corpus()).table()
    assert table.group_by("video_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert dict(table.unique("video_id")["split"].value_counts().iter_rows()) == {"sft": 12, "rl": 6, "eval": 2}


def test_the_seed_decides_the_split(warehouse):
    first, again, other = (run(warehouse, corpus(), seed).table() for seed in (0, 0, 1))
    assert first.equals(again)
    assert first["question_id"].equals(other["question_id"])
    assert not first["split"].equals(other["split"])


@pytest.mark.parametrize(
    ("videos", "expected"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (6, 1, 3))],
)
def test_few_videos_fill_sft_then_eval_then_rl(videos, expected):
    counts = split_counts(videos, 0.6, 0.1)
    assert (counts["sft"], counts["eval"], counts["rl"]) == expected


def test_a_share_of_zero_stays_empty():
    assert split_counts(7, 0.5, 0.0) == {"sft": 4, "eval": 0, "rl": 3}


def test_the_key_is_balanced_over_all_and_in_each_category(warehouse):
    rows = [question(n, f"v{video}", answer="B") for video in range(31) for n in range(7)]
    table = run(warehouse, rows).table()
    for columns in (["split"], ["split", "category"]):
        for _, cell in table.group_by(columns):
            counts = [Counter(cell["answer"])[letter] for letter in "ABCD"]
            assert max(counts) - min(counts) <= 1


def test_balancing_moves_options_and_changes_no_answer(warehouse):
    rows = corpus()
    before = {row["question_id"]: row for row in rows}
    table = run(warehouse, rows).table()
    assert table.height == len(rows)
    for row in table.iter_rows(named=True):
        old = before[row["question_id"]]
        assert sorted(row["options"]) == sorted(old["options"])
        assert row["options"]["ABCD".index(row["answer"])] == old["options"]["ABCD".index(old["answer"])]
    assert len(set(table["options"].to_list()[0])) == 4
    assert table["options"].n_unique() > 12  # the wrong options change places too


def test_letters_in_the_conclusion_move_with_their_option(warehouse):
    rows = [question(n, conclusion="not blue ball (B), so red box (A)", answer="A") for n in range(8)]
    table = run(warehouse, rows).table()
    assert table["answer"].n_unique() == 4
    for row in table.iter_rows(named=True):
        other = "ABCD"[row["options"].index("blue ball")]
        assert row["conclusion"] == f"not blue ball ({other}), so red box ({row['answer']})"


def test_relabel_tells_options_apart_by_their_letter():
    old, new = ["red", "red box"], ["red box", "red"]
    assert relabel("the red box (B), not red (A), in 1999 (C)", old, new) == "the red box (A), not red (B), in 1999 (C)"


def test_input_order_is_kept(warehouse):
    rows = corpus(5)
    assert run(warehouse, rows).table()["question_id"].to_list() == [row["question_id"] for row in rows]


def test_nothing_in_is_nothing_out(warehouse):
    made = run(warehouse, [])
    assert (made.rows, made.rejects) == (0, 0)


def test_the_catalog_answers_what_curation_did(warehouse):
    run(warehouse, [*corpus(10), question(90, evidence=[])])
    catalog.rebuild(warehouse)
    with catalog.connect(warehouse) as connection:
        rejected = connection.sql("SELECT stage, rule, count(*) FROM rejects GROUP BY ALL").fetchall()
        splits = connection.sql(
            "SELECT split, count(*) FROM questions JOIN splits USING (question_id) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert rejected == [("curate", "evidence_exists", 1)]
    assert splits == [("eval", 8), ("rl", 24), ("sft", 48)]
