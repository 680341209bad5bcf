"""Exchange: what is exported comes back as it was, other people's files are read, and what can't be is said."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from longrl import cli
from longrl.config import ImportSettings, IngestSettings
from longrl.data.exchange import formats
from longrl.data.exchange.exporting import export_dataset
from longrl.data.exchange.importing import import_dataset
from longrl.data.exchange.records import ExchangeError
from longrl.data.ingest import ingest
from longrl.warehouse.artifacts import ArtifactRef
from longrl.warehouse.schemas import empty
from tests.videos import noisy_frames, write_video

FORMATS = sorted(formats())
JSON_FORMATS = [name for name in FORMATS if name != "huggingface"]
SPLIT_OF = {"a.mp4": "sft", "b.mp4": "rl", "deep/c.mp4": "eval"}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for seed, name in enumerate(SPLIT_OF):
        write_video(folder / name, noisy_frames(4, seed=seed))
    return folder


@pytest.fixture
def videos(films, warehouse) -> ArtifactRef:
    return ingest(IngestSettings(workers=1), films, warehouse)


def question(number: int, video: str, videos: ArtifactRef, **changes) -> dict:
    folder = videos.facts()["folder"]
    ids = {str(Path(path).relative_to(folder)): name for path, name in videos.table().select("path", "video_id").rows()}
    return {
        "question_id": f"q{number}",
        "video_id": ids[video],
        "category": ("temporal", "goal", "spatial", "plot")[number % 4],
        "kind": "choice",
        "question": f"Who comes in {number}?",
        "options": ["red box", "blue ball", "green box", "white ball"],
        "answer": "ABCD"[number % 4],
        "reasoning": "At 0:00-0:10 somebody comes in.",
        "conclusion": "So it is the red box (A).",
        "evidence": [0, 2],
        "teacher": "test",
        "split": SPLIT_OF[video],
    } | changes


AWKWARD = [
    {"kind": "open", "options": [], "answer": "to fetch the red box, then leave"},
    {"kind": "open", "options": [], "answer": "B"},  # what stands on a sign, not a letter
    {"kind": "open", "options": [], "answer": "a box", "question": "Which one?\nA. is not\nB. an option"},
    {
        "question": "Which line\nof the two?",
        "options": ["first\nsecond", "A. red", " spaces ", "ünïcödé <answer>A</answer>"],
    },
    {"question": "<video> stands on it?", "reasoning": "He says </think> and <answer>C</answer>.", "conclusion": ""},
    {"reasoning": "two\n\npara\u2028graphs\x85\x0c \n", "conclusion": "two\nlines", "evidence": []},
    {"options": [str(number) for number in range(26)], "answer": "Z"},
]


@pytest.fixture
def dataset(warehouse, videos) -> ArtifactRef:
    """Rows of all splits and kinds, in an order that is nobody's."""
    rows = [question(number, list(SPLIT_OF)[number % 3], videos) for number in range(12)]
    rows += [question(20 + number, list(SPLIT_OF)[number % 3], videos, **row) for number, row in enumerate(AWKWARD)]
    frame = pl.DataFrame(rows[::-1], schema=empty("curate").schema)
    return warehouse.produce("curate", 1, {}, {"videos": videos}, lambda draft: draft.write(frame))


def settings(form: str, path: Path, **others) -> ImportSettings:
    return ImportSettings(path=str(path), format=form, **others)


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_trip_is_exact(form, dataset, videos, warehouse, tmp_path):
    out = export_dataset(dataset, form, tmp_path / "out", warehouse)
    back = import_dataset(settings(form, out), videos, warehouse)
    assert back.rejected().is_empty()
    assert back.table().equals(dataset.table())
    assert back.facts()["questions"] == {"eval": 6, "rl": 6, "sft": 7}


@pytest.mark.parametrize("form", JSON_FORMATS)
def test_nothing_is_held_twice(form, dataset, warehouse, tmp_path):
    """An ordinary row's texts are in the format's own fields alone, so that what a person mends there counts."""
    out = export_dataset(dataset, form, tmp_path / "out", warehouse)
    rows = [extra for file in out.glob("sft.json*") for extra in extras(file) if extra["question_id"] in ("q0", "q3")]
    assert len(rows) == 2
    assert not {"question", "options", "answer", "reasoning", "kind", "video"} & {name for row in rows for name in row}


def extras(file: Path) -> list[dict]:
    text = file.read_text()
    rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [row["longrl"] for row in rows]


def test_longvideo_reason_has_its_options_and_its_category(dataset, warehouse, tmp_path):
    out = export_dataset(dataset, "longvideo-reason", tmp_path / "out", warehouse)
    rows = [json.loads(line) for line in (out / "eval.jsonl").read_text().split("\n") if line]
    row = next(row for row in rows if row["longrl"]["question_id"] == "q5")
    assert {name: row[name] for name in row if name not in ("longrl", "problem_id")} == {
        "problem": "Who comes in 5?\nA. red box\nB. blue ball\nC. green box\nD. white ball",
        "data_type": "video",
        "problem_type": "goal",
        "reasoning": "At 0:00-0:10 somebody comes in.\nSo it is the red box (A).",
        "videos": "deep/c.mp4",
        "answer": "<answer>B</answer>",
    }


def test_hugging_face_loads_it_by_its_card(dataset, warehouse, tmp_path, monkeypatch):
    import datasets

    out = export_dataset(dataset, "huggingface", tmp_path / "out", warehouse)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"sft": 7, "rl": 6, "eval": 6}
    assert set(loaded["sft"].column_names) == {*dataset.table().columns, "video", "position"}
    assert {row["question_id"] for rows in loaded.values() for row in rows} == set(dataset.table()["question_id"])


@pytest.mark.parametrize("form", FORMATS)
def test_a_card_counts_and_names_every_stage(form, dataset, videos, warehouse, tmp_path):
    text = (export_dataset(dataset, form, tmp_path / "out", warehouse) / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert ("configs" in yaml.safe_load(head)) == (form == "huggingface")
    assert "# 19 questions about 3 videos" in body
    assert "| all | 5 | 4 | 5 | 5 | 19 |" in body  # goal, plot, spatial, temporal
    for ref in (dataset, videos):
        assert f"| {ref.stage} | `{ref.key}` |" in body
    assert str(tmp_path) not in text


FOREIGN = {
    "longvideo-reason": {
        "problem_id": 7, "problem": "Why?\nA. for red\nB. for blue", "data_type": "video", "problem_type": "goal",
        "reasoning": "Because it is blue.", "videos": "longvila_videos/a.webm", "answer": "<answer>B</answer>",
    },
    "video-r1": {
        "problem_id": 2, "problem": "Why?", "data_type": "video", "problem_type": "multiple choice",
        "options": ["A. for red", "B. for blue"], "process": "<think>Because it is blue.</think>",
        "solution": "<answer>B</answer>", "path": "./LLaVA-Video-178K/a.mp4", "data_source": "LLaVA-Video-178K",
    },
    "llava": {
        "id": "a-0", "video": "a.mp4", "conversations": [
            {"from": "human", "value": "<video>\nWhy?\nA. for red\nB. for blue"},
            {"from": "gpt", "value": "<think>Because it is blue.</think><answer>B</answer>"},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FOREIGN)
def test_a_file_that_others_wrote_is_read(form, videos, warehouse, tmp_path):
    path = write(tmp_path / "theirs.json", [FOREIGN[form]])
    made = import_dataset(settings(form, path, split="rl", category="goal"), videos, warehouse)
    (row,) = made.table().rows(named=True)
    kept = {name: row[name] for name in ("category", "kind", "question", "options", "answer", "reasoning", "split")}
    assert kept == {
        "category": "goal", "kind": "choice", "question": "Why?", "options": ["for red", "for blue"], "answer": "B",
        "reasoning": "Because it is blue.", "split": "rl",
    }  # fmt: skip
    assert row["video_id"] == question(0, "a.mp4", videos)["video_id"]


BAD = [
    ("longvideo-reason", {"videos": "nowhere.mp4"}, "video", r"no video nowhere.mp4 in .*films.*; put it there"),
    ("longvideo-reason", {"problem": "Why?"}, "row", "the answer is the letter B but there are no options"),
    ("longvideo-reason", {"answer": "<answer>E</answer>"}, "row", "the answer is 'E' but there are 2 options"),
    ("longvideo-reason", {"answer": "<answer>AB</answer>"}, "row", "the answer is 'AB' but there are 2 options"),
    ("longvideo-reason", {"answer": ""}, "row", "there is no answer"),
    ("longvideo-reason", {"reasoning": ""}, "row", "there is no reasoning; take rows with a chain of thought"),
    ("longvideo-reason", {"problem_type": "general"}, "row", "its category is 'general', not one of temporal"),
    ("longvideo-reason", {"problem": None}, "row", "a field is of another type"),
    ("longvideo-reason", {"videos": None}, "row", "it names no video"),
    ("longvideo-reason", {"longrl": {"answer": 3}}, "row", "its answer is no text: 3"),
    ("longvideo-reason", {"longrl": {"evidence": ["0"]}}, "row", "its evidence are no list of numbers"),
    ("longvideo-reason", {"longrl": {"kind": "riddle"}}, "row", "its kind is 'riddle', not choice or open"),
    ("video-r1", {"problem": 5}, "row", "its question is no text: 5"),
    ("longvideo-reason", {"longrl": {"video_id": "0" * 64}}, "video", "take the row's video_id out to match by name"),
    ("video-r1", {"data_type": "audio"}, "row", "questions about video, image and text are taken"),
    ("video-r1", {}, "row", "its category is '', not one of .*; set imported.category"),
    ("llava", {"conversations": []}, "row", "it has 0 turns; make each question a conversation"),
]


@pytest.mark.parametrize(("form", "changes", "rule", "words"), BAD)
def test_a_row_that_can_not_be_used_is_a_reject_with_its_place(form, changes, rule, words, videos, warehouse, tmp_path):
    good = FOREIGN[form] | {"longrl": {"category": "plot", "question_id": "good"}}
    path = write(tmp_path / "theirs.json", [good, FOREIGN[form] | changes])
    made = import_dataset(settings(form, path), videos, warehouse)
    assert made.table()["question_id"].to_list() == ["good"]
    (reject,) = made.rejected().rows(named=True)
    assert (reject["item"], reject["rule"]) == ("theirs.json row 1", rule)
    assert pl.Series([reject["reason"]]).str.contains(words).all(), reject["reason"]


def test_an_empty_field_of_ours_and_ids_that_are_no_numbers_do_no_harm(videos, warehouse, tmp_path):
    row = FOREIGN["longvideo-reason"] | {"longrl": None}
    rows = [row | {"problem_id": name, "problem": f"Why {name}?\nA. so\nB. thus"} for name in ("b", 7, "a")]
    made = import_dataset(settings("longvideo-reason", write(tmp_path / "theirs.json", rows)), videos, warehouse)
    assert made.table()["question"].to_list() == ["Why b?", "Why 7?", "Why a?"]


def test_a_file_of_a_split_names_it_in_every_format(videos, warehouse, tmp_path):
    row = {"category": "goal", "kind": "choice", "question": "Why?", "options": ["so", "thus"], "answer": "B"}
    row |= {"reasoning": "It is thus.", "video": "a.mp4", "conclusion": None}
    pl.DataFrame([row]).write_parquet(tmp_path / "eval.parquet")
    made = import_dataset(settings("huggingface", tmp_path / "eval.parquet"), videos, warehouse)
    assert made.table().select("split", "answer", "conclusion").rows() == [("eval", "B", "")]


def test_no_video_is_held_out_and_trained_on(videos, warehouse, tmp_path):
    write(tmp_path / "set" / "eval.json", [FOREIGN["longvideo-reason"]])
    other = FOREIGN["longvideo-reason"] | {"problem": "How?\nA. so\nB. thus"}
    write(tmp_path / "set" / "sft.json", [other, other, other | {"videos": "b.mp4"}])
    made = import_dataset(settings("longvideo-reason", tmp_path / "set"), videos, warehouse)
    assert made.table().select("split", "question").rows() == [("eval", "Why?"), ("sft", "How?")]
    assert made.rejected().select("item", "rule").rows() == [
        ("sft.json row 0", "two_splits"),
        ("sft.json row 1", "duplicate"),
    ]


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("llava", "{", r"theirs.json is no JSON.*must end in .jsonl"),
        ("llava", "{}", r"theirs.json holds no list of questions; is this the right FORMAT"),
        ("llava", "[]", r"no row of .* can be used as llava: it holds none"),
        ("llava", '[{"problem": "Why?"}]', r"theirs.json row 0: no field 'conversations'; is this the right FORMAT"),
        ("llava", "[\xe4]", r"theirs.json is no UTF-8 text"),
        ("llava", None, r"nothing at .*theirs.json; DATASET must name a file or a folder"),
        ("huggingface", "[]", r"theirs.json is no Parquet file"),
    ],
)
def test_a_file_that_can_not_be_read_is_a_clear_error(form, text, words, videos, warehouse, tmp_path):
    path = tmp_path / "theirs.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ExchangeError, match=words):
        import_dataset(settings(form, path), videos, warehouse)


def test_an_export_never_writes_over_anything(dataset, warehouse, tmp_path):
    write(tmp_path / "out" / "mine.json", [])
    with pytest.raises(ExchangeError, match="is there already; name a new folder"):
        export_dataset(dataset, "llava", tmp_path / "out", warehouse)
    with pytest.raises(ExchangeError, match="unknown format 'csv'; the formats are: huggingface, llava"):
        export_dataset(dataset, "csv", tmp_path / "new", warehouse)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name or "new" in path.name] == ["out"]


def test_the_command_exports_and_imports(dataset, films, warehouse, tmp_path, capsys):
    root = ["--warehouse", str(warehouse.root)]
    assert cli.main(["export", "video-r1", str(tmp_path / "out"), *root]) == 0
    assert cli.main(["import", "video-r1", str(tmp_path / "out"), "--videos", str(films), *root]) == 0
    assert "19 questions, 0 rejected" in capsys.readouterr().out
    assert cli.main(["export", "csv", str(tmp_path / "other"), *root]) == 1
    assert capsys.readouterr().err.startswith("error: unknown format 'csv'")


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows))
    return path
