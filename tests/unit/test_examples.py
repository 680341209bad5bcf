"""What a step of SFT draws: reproducibly, from its split alone, with the right weights."""

import json
import random
from pathlib import Path

import polars as pl
import pytest
from transformers import AutoTokenizer

from longrl.config import FrameSettings, Mixture, Phase, SftSettings
from longrl.models.chat import ChatFormat
from longrl.training.examples import Cycle, Examples
from longrl.training.rl_prompts import answerable
from longrl.training.turns import question_turn, recall_drill, tokenize
from longrl.video import stories
from tests.story_corpus import caption_rows, question_rows
from tests.tiny_student import build_student

MIXTURE = Mixture(recall_drill=2, clip_captions=3, video_captions=2, reading=4, blind_questions=2, questions=3)
SETTINGS = SftSettings(
    phases=(
        Phase(name="captions", steps=3, mixture=Mixture(clip_captions=4)),
        Phase(name="all", steps=20, mixture=MIXTURE),
    ),
    questions_per_video=3,
    loss_weights=(0.5, 1.0, 3.0, 2.0),
)


@pytest.fixture(scope="module")
def tables():
    videos, captions, dataset = [], [], []
    for seed in range(9):
        story, video_id = stories.make_story(seed), f"{seed}" * 64
        videos.append({"video_id": video_id, "path": f"/films/{seed}.mp4", "duration": story.duration})
        captions += caption_rows(video_id, story)
        split = ("sft", "rl", "eval")[seed % 3]
        dataset += [row | {"split": split} for row in question_rows(video_id, story)]
    return {"videos": pl.DataFrame(videos), "captions": pl.DataFrame(captions), "dataset": pl.DataFrame(dataset)}


def make(tables, seed=0, **changes) -> Examples:
    return Examples(SETTINGS, FrameSettings(), **tables, seed=seed, words=range(100), **changes)


def test_a_step_is_a_function_of_seed_and_step(tables):
    straight = [make(tables).step(step) for step in range(1, 24)]
    examples = make(tables)
    assert [examples.step(step) for step in (20, 3, 7)] == [straight[19], straight[2], straight[6]]
    assert make(tables, seed=1).step(20) != straight[19]


def test_every_kind_comes_in_its_number(tables):
    assert {kind: len(found) for kind, found in make(tables).step(9).items()} == MIXTURE.model_dump()


def test_only_the_sft_split_is_ever_seen(tables):
    examples = make(tables)
    allowed = {f"{seed}" * 64 for seed in (0, 3, 6)}
    seen = {
        example.views[0].video_id
        for step in range(1, 24)
        for e in examples.step(step).values()
        for example in e
        if example.views
    }
    assert seen == allowed
    assert {view.video_id for view in examples.views()} == allowed


def test_broken_videos_are_left_out(tables):
    assert {view.video_id[0] for view in make(tables, broken=["3" * 64]).views()} == {"0", "6"}


def test_all_views_of_all_steps_are_announced(tables):
    examples = make(tables, seed=3)
    announced = set(examples.views())
    drawn = {v for step in range(1, 24) for group in examples.step(step).values() for e in group for v in e.views}
    assert drawn <= announced
    assert {len(view.plan.times) for view in drawn} == {4, 8, 16, 32}


def test_a_phase_may_have_frame_budgets_of_its_own(tables):
    phase = Phase(name="all", steps=9, budgets=(16,), mixture=MIXTURE)
    examples = Examples(
        SETTINGS.model_copy(update={"phases": (phase,)}), FrameSettings(), **tables, seed=0, words=range(99)
    )
    shown = {len(v.plan.times) for step in range(1, 10) for e in examples.step(step)["questions"] for v in e.views}
    assert shown == {16}
    assert {e.views[0] for e in examples.step(4)["video_captions"]} <= set(examples.views())


def test_a_video_is_retold_where_its_chains_of_thought_will_begin(tables):
    examples = make(tables)
    for example in examples.step(9)["video_captions"]:
        (turn,) = example.turns
        prompts = {
            question_turn(row, SETTINGS.loss_weights).prompt for row in examples.questions[example.views[0].video_id]
        }
        assert turn.prompt in prompts
        assert turn.response.startswith("<think>clip 1:")


def test_a_clip_is_shown_where_the_teacher_saw_something(tables):
    examples = make(tables)
    clip = dict(tables["captions"].row(0, named=True))
    assert len(examples.clip_view(clip).plan.times) == 8  # a quarter of the video, a quarter of its 32 frames
    clip["facts"] = json.dumps({"visits": [{"start": 2.0, "end": 6.0}]})
    assert examples.clip_view(clip).plan.times == (3.0, 5.0)


def test_an_epoch_shows_everything_once():
    cycle = Cycle("x", list(range(10)))
    assert sorted(cycle.take(0, 10)) == sorted(cycle.take(10, 10)) == list(range(10))
    assert cycle.take(0, 10) != cycle.take(10, 10)
    assert cycle.take(3, 5) == cycle.take(0, 10)[3:8]


def test_phases_go_on_where_the_epoch_stood(tables):
    examples = make(tables)
    clips = [e.views[0] for step in range(1, 5) for e in examples.step(step)["clip_captions"]]
    assert len(set(clips[:12])) == 12  # 3 videos x 4 clips, all once before any twice


def test_questions_of_a_video_differ_in_category(tables):
    for example in make(tables).step(5)["questions"]:
        assert len({turn.prompt for turn in example.turns}) == 3


def test_missing_kind_names_the_phase(tables):
    with pytest.raises(ValueError, match="phase 'captions' asks for clip_captions"):
        make(tables | {"captions": tables["captions"].clear()})


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> ChatFormat:
    folder: Path = build_student(tmp_path_factory.mktemp("student"))
    return ChatFormat(AutoTokenizer.from_pretrained(folder))


ROW = {
    "category": "goal",
    "question": "Who is it?",
    "options": ["red", "blue"],
    "reasoning": "clip 1: red walks.",
    "conclusion": "clip 1, so red (A)",
    "answer": "A",
}


def test_weights_fall_on_the_right_words(chat):
    turn = question_turn(ROW, (0.5, 1.0, 3.0, 2.0))
    ids, weights = tokenize(chat, turn.response, turn.weights)
    assert chat.decode(ids) == "<think>clip 1: red walks. clip 1, so red (A)</think><answer>A</answer>"
    assert len(ids) == len(weights)
    assert ids[-1] == chat.end

    def text(weight):
        return "".join(
            chat.tokenizer.decode([token]) for token, each in zip(ids[:-1], weights, strict=False) if each == weight
        )

    assert text(0.5) == "<think>clip 1: red walks."
    assert "(A" in text(2.0)
    assert text(3.0) == "</think><answer>A</answer>"
    assert weights[-1] == 3.0


def test_reading_gives_the_chain_for_nothing(chat):
    turn = question_turn(ROW, (0.5, 1.0, 3.0, 2.0), reading=True)
    _, weights = tokenize(chat, turn.response, turn.weights)
    assert 0.5 not in weights
    assert weights[0] == 0.0


def test_a_drill_can_be_answered_from_what_it_showed():
    for seed in range(20):
        shown, recalled, weights = recall_drill(range(1000), random.Random(seed))
        length = next(n for n in range(3, 7) if shown[-1] == shown[n - 1])  # of a record: they end in the same token
        told = {shown[at]: shown[at : at + length] for at in range(0, len(shown), length)}
        asked = [recalled[at : at + length] for at in range(0, len(recalled), length)]
        assert len(told) == len(asked) == len({record[0] for record in asked})
        assert all(told[record[0]] == record for record in asked)
        assert weights[0] == 0.0  # which record comes next can't be known
        assert {token for token, weight in zip(recalled, weights, strict=True) if weight}.isdisjoint(told)


def test_an_open_question_is_asked_without_options_and_answered_in_words():
    row = ROW | {"question": "Who comes first?", "options": [], "answer": "the red box", "kind": "open"}
    turn = question_turn(row | {"reasoning": "At 0:00 a red box.", "conclusion": "So it."}, (1.0, 1.0, 1.0, 2.0))
    assert turn.prompt == "Who comes first?"
    assert turn.response == "<think>At 0:00 a red box. So it.</think><answer>the red box</answer>"


def test_rl_leaves_open_questions_out_and_counts_them(tables):
    first, *_ = tables["dataset"].filter(pl.col("split") == "rl")["question_id"]
    kind = pl.when(pl.col("question_id") == first).then(pl.lit("open")).otherwise(pl.lit("choice"))
    dataset = tables["dataset"].with_columns(kind=kind)
    rows, left_out = answerable(dataset, judged=False)
    assert left_out == 1
    assert rows.height == dataset.filter(pl.col("split") == "rl").height - 1
