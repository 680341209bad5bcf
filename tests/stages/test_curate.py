"""Curation on small tables whose outcome is known: each rule, the splits, the key, and counts that add up."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from longrl.config import ConfigError, CurateSettings
from longrl.data.curate import chosen_rules, curate, relabel, split_counts
from longrl.warehouse import catalog
from longrl.warehouse.artifacts import Warehouse
from longrl.warehouse.schemas import SchemaError, empty
from tests.curation import CLIPS_PER_VIDEO, captions, corpus, open_question, question, rejected, run

BAD = [
    ("schema", {"answer": "the red box"}),
    ("schema", {"question": "?"}),
    ("schema", {"kind": "open"}),
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


BAD_OPEN = [
    ("schema", {"options": ["red", "blue"]}),
    ("schema", {"answer": "..."}),
    ("evidence_exists", {"evidence": []}),
    ("reasoning_present", {"reasoning": "Because."}),
    ("mentions_captions", {"answer": "the red box of the second caption"}),
    ("mentions_letters", {"conclusion": "So option B is right."}),
    ("reasoning_leads_to_answer", {"answer": "a white ball"}),
]


@pytest.mark.parametrize(("rule", "changes"), BAD_OPEN)
def test_rule_rejects_an_open_question_that_it_is_for(warehouse, rule, changes):
    made = run(warehouse, [open_question(0, **changes), question(1)])
    assert rejected(made) == [("v0-q0", rule)]


@pytest.mark.parametrize("changes", [{}, {"answer": "B"}, {"answer": "red", "conclusion": "So the red one does."}])
def test_good_open_questions_pass_and_keep_their_answer(warehouse, changes):
    changes = {"reasoning": "At 0:00-0:10 the red B of the alphabet comes in."} | changes
    row = open_question(0, **changes)
    made = run(warehouse, [row, *corpus(3)[1:]])
    assert made.rejects == 0
    kept = made.table().row(0, named=True)
    assert kept | row == kept


def test_an_open_question_is_asked_once_of_a_video(warehouse):
    made = run(warehouse, [open_question(0), open_question(0) | {"question_id": "v0-q9"}, open_question(0, "v1")])
    assert rejected(made) == [("v0-q9", "duplicate_question")]


def test_every_rule_has_a_case_above(warehouse):
    elsewhere = {"duplicate_question", "near_identical", "near_duplicate", "same_meaning", "category_cap"}
    elsewhere |= {"benchmark_video", "benchmark_question", "answered_blind", "judged_bad", "unverified"}
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
    with pytest.raises(
        ConfigError, match=r"no rule evidence; the rules are: schema, answer_among_options, .*evidence_exists"
    ):
        run(warehouse, corpus(2), disabled_rules=("evidence",))


def test_shares_over_one_are_an_error(warehouse):
    with pytest.raises(ConfigError, match=r"curate.sft_share \+ curate.eval_share is 1.2"):
        run(warehouse, corpus(2), sft_share=0.8, eval_share=0.4)


def test_no_video_is_in_two_splits(warehouse):
    table = run(warehouse, corpus()).table()
    assert table.group_by("video_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert dict(table.unique("video_id")["split"].value_counts().iter_rows()) == {"sft": 12, "rl": 6, "eval": 2}


def test_the_key_is_reported_as_written_and_as_balanced(warehouse):
    facts = run(warehouse, [question(n, f"v{v}", answer="B") for v in range(10) for n in range(4)]).facts()
    assert facts["key_as_written"] == {"B": 40}
    assert facts["key"] == {
        "eval": dict.fromkeys("ABCD", 1),
        "rl": dict.fromkeys("ABCD", 3),
        "sft": dict.fromkeys("ABCD", 6),
    }
    assert facts["categories"]["eval"] == dict.fromkeys(["temporal", "goal", "spatial", "plot"], 1)


def test_a_cap_takes_one_question_of_every_video_before_a_second(warehouse):
    rows = [question(n, f"v{v}", category="plot" if n < 6 else "goal") for v in range(5) for n in range(8)]
    made = run(warehouse, rows, category_cap=11)
    assert dict(made.table()["category"].value_counts().iter_rows()) == {"plot": 11, "goal": 10}
    plots = made.table().filter(pl.col("category") == "plot")["video_id"].value_counts()["count"]
    assert sorted(plots) == [2, 2, 2, 2, 3]
    assert made.facts()["rejected"]["category_cap"] == made.rejects == 19


def test_rows_in_several_batches_are_as_in_one(warehouse, monkeypatch):
    rows = [*corpus(), *[question(0, f"v{n}") | {"question_id": f"again-{n}"} for n in range(5)]]
    whole = run(warehouse, rows)
    assert rejected(whole) == [(f"again-{n}", "duplicate_question") for n in range(5)]
    monkeypatch.setattr("longrl.data.curate.BATCH", 7)
    parts = run(Warehouse(warehouse.root / "other"), rows, memory_mib=128)
    assert len(parts.parts()) == 23
    assert parts.key == whole.key
    assert parts.table().equals(whole.table())
    assert parts.rejected().equals(whole.rejected())


def test_an_id_that_two_parts_share_is_an_error(warehouse):
    def build(draft):
        for row in (question(0), question(1) | {"question_id": "v0-q0"}):
            draft.write(pl.DataFrame([row], schema=empty("reason").schema))

    asked = warehouse.produce("reason", 1, {}, {}, build)
    with pytest.raises(SchemaError, match="'question_id' is not unique: v0-q0"):
        curate(CurateSettings(), captions(warehouse, [question(0)]), asked, warehouse, 0)


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
