"""Every family through SFT, RL and evaluation, on questions about videos, images and text in one dataset."""

import json

import polars as pl
import pytest

from longrl.config import EvaluateSettings, FrameSettings, ImportSettings, Mixture, Phase, RlSettings, SftSettings
from longrl.data.exchange.importing import import_dataset, no_videos
from longrl.data.puzzles import write_puzzles
from longrl.evaluation.evaluate import evaluate
from longrl.models import families
from longrl.models.families import FAMILIES
from longrl.training.rl import rl
from longrl.training.sft import sft
from tests.families import build
from tests.story_corpus import make_corpus

FRAMES = FrameSettings(budget=4, budgets=(4,), image_pixels=3136)
SFT = SftSettings(
    phases=(Phase(name="all", steps=3, warmup=0, mixture=Mixture(questions=9)),), questions_per_video=2, ranks=1
)
RL = RlSettings(
    steps=2, prompts_per_step=9, group_size=4, temperature=1.2, max_tokens=12, warmup=0, learning_rate=1e-3, ranks=1,
    truncated="keep", rewards={"length": 1.0},
)  # fmt: skip
KINDS = ("text", "images")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 4, splits=("sft", "sft", "rl", "eval"), brief=True)


def dataset_of(corpus, family, folder):
    """What the family can see of stories and puzzles."""
    warehouse, tables = corpus.warehouse, []
    if "video" in FAMILIES[family].kinds:
        tables.append(corpus.dataset.table().with_columns(media=pl.lit(None)))
    for kind in KINDS if "image" in FAMILIES[family].kinds else KINDS[:1]:
        written = write_puzzles(kind, folder / kind, 20)
        settings = ImportSettings(path=str(written), format="llava")
        tables.append(import_dataset(settings, no_videos(warehouse), warehouse).table())
    media = tables[-1].schema["media"]
    frame = pl.concat([table.with_columns(pl.col("media").cast(media)).select(tables[-1].columns) for table in tables])
    return warehouse.produce("curate", 1, {"made": f"for {family}"}, {}, lambda draft: draft.write(frame))


@pytest.mark.slow  # three engines and two trainings each
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llava_llama"])  # a VILA by another name
def test_sft_rl_and_evaluation(corpus, family, tmp_path):
    warehouse = corpus.warehouse
    dataset = dataset_of(corpus, family, tmp_path)
    model = warehouse.produce("model", 1, {"family": family}, {}, lambda draft: build(draft.folder / "hf", family))
    tuned = sft(SFT, FRAMES, model, dataset, corpus.captions, corpus.videos, warehouse, 0)
    reinforced = rl(RL, FRAMES, tuned, dataset, corpus.videos, warehouse, 0)
    rows = [json.loads(line) for line in reinforced.file("metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    gaps = [row["parity_gap"] for row in rows if row["parity_gap"] is not None]  # None: all rewards of a step equal
    assert gaps
    assert max(gaps) < 1e-3
    before, after = (families.load(ref.file("hf")).model.state_dict() for ref in (tuned, reinforced))
    assert any(not before[name].equal(after[name]) for name in before)
    settings = EvaluateSettings(samples=0, max_tokens=12, ranks=1)
    asked = evaluate(settings, FRAMES, {"rl": reinforced}, dataset, corpus.videos, warehouse, 0)
    table = asked.table()
    assert table["error"].null_count() == table.height
    questions = dataset.table().filter((pl.col("split") == "eval") & (pl.col("kind") == "choice"))
    assert set(table["question_id"]) == set(questions["question_id"])
    assert set(table["category"]) == set(questions["category"])
