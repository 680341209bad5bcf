"""Stage `model`: taking over a folder, or building the tiny one."""

import json
import shutil

import polars as pl
import pytest

from longrl.config import ModelSettings
from longrl.models import families
from longrl.models.families import StudentError
from longrl.models.student import corpus_texts, student
from longrl.warehouse.artifacts import Warehouse

QUESTION = {
    "category": "plot", "kind": "choice", "question": "What moves?", "options": ["red", "blue"], "answer": "A",
    "reasoning": "It is red.",
    "conclusion": "So red.", "evidence": [0], "teacher": "t",
}  # fmt: skip
CLIP = {"index": 0, "start": 0.0, "end": 1.0, "facts": "{}", "teacher": "t"}


@pytest.fixture
def inputs(tmp_path):
    """A warehouse with captions and questions of an SFT, an RL and an evaluation video."""
    warehouse = Warehouse(tmp_path / "warehouse")
    captions = [CLIP | {"clip_id": f"c{n}", "video_id": f"v{n}", "caption": f"secret {n}"} for n in range(3)]
    questions = [
        QUESTION | {"question_id": f"q{n}", "video_id": f"v{n}", "split": split, "pass_rate": None}
        for n, split in enumerate(("sft", "rl", "eval"))
    ]
    schema = pl.DataFrame(questions).columns

    def made(stage, rows, order):
        frame = pl.DataFrame(rows, schema_overrides={"pass_rate": pl.Float64}).select(order)
        return warehouse.produce(stage, 1, {}, {}, lambda draft: draft.write(frame))

    order = ["clip_id", "video_id", "index", "start", "end", "caption", "facts", "teacher"]
    return warehouse, made("caption", captions, order), made("curate", questions, schema)


def test_an_existing_folder_is_taken_over(inputs, student_folder):
    warehouse, captions, dataset = inputs
    ref = student(ModelSettings(path=str(student_folder)), captions, dataset, warehouse, seed=0)
    assert families.load(ref.file("hf")).hidden_size == 128
    again = student(ModelSettings(path=str(student_folder)), captions, dataset, warehouse, seed=1)
    assert again.cached
    assert again == ref


def test_a_changed_folder_is_taken_over_again(inputs, student_folder, tmp_path):
    warehouse, captions, dataset = inputs
    folder = shutil.copytree(student_folder, tmp_path / "model")
    settings = ModelSettings(path=str(folder))
    first = student(settings, captions, dataset, warehouse, seed=0)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(config | {"temperature": 0.5}))
    second = student(settings, captions, dataset, warehouse, seed=0)
    assert not second.cached
    assert second.digest != first.digest


def test_a_folder_that_is_no_model_is_named(inputs, tmp_path):
    warehouse, captions, dataset = inputs
    with pytest.raises(StudentError, match=r"config\.json.*missing"):
        student(ModelSettings(path=str(tmp_path)), captions, dataset, warehouse, seed=0)


def test_the_tiny_model_is_built_and_depends_on_the_seed(inputs):
    pytest.importorskip("longrl.models.tiny")
    warehouse, captions, dataset = inputs
    small = ModelSettings(hidden_size=32, layers=1, heads=2, feed_forward=32, vision_width=16, vision_depth=1)
    refs = [student(small, captions, dataset, warehouse, seed) for seed in (0, 1, 0)]
    assert refs[2].cached
    assert refs[0].digest != refs[1].digest
    loaded = families.load(refs[0].file("hf"))
    assert loaded.chat.decode(loaded.chat.response("secret")) == "secret"


def test_the_tokenizer_sees_texts_of_sft_videos_only(inputs):
    _, captions, dataset = inputs
    texts = corpus_texts(captions.table(), dataset.table())
    assert "secret 0" in texts
    assert not {"secret 1", "secret 2"} & set(texts)
