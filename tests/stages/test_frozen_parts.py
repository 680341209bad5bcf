"""SFT with other parts of the student frozen than the tower and its projector together."""

import pytest

from longrl.config import FrameSettings, LoraSettings, Mixture, Phase, SftSettings
from longrl.models import families
from longrl.training.sft import sft
from longrl.warehouse.artifacts import Warehouse
from tests.story_corpus import make_corpus

PHASES = (Phase(name="q", steps=2, warmup=0, mixture=Mixture(questions=2, clip_captions=2)),)
PARTS = {
    "projector alone": ({"freeze_vision": True, "freeze_projector": False, "freeze_language": True}, {"projector"}),
    "projector and language": ({"freeze_vision": True, "freeze_projector": False}, {"projector", "language"}),
    "tower and LoRA": (
        {"freeze_projector": True, "lora": LoraSettings(rank=4, checkpoint="merged")},
        {"tower", "language"},
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 4, brief=True, heads=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_what_is_frozen_stays_and_what_is_not_learns(corpus, tmp_path, name):
    chosen, trained = PARTS[name]
    settings = SftSettings(phases=PHASES, questions_per_video=4, ranks=1, **chosen)
    inputs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    tuned = sft(settings, FrameSettings(budget=8, budgets=(4, 8)), *inputs, Warehouse(tmp_path), 0)
    before, after = (families.load(ref.file("hf")).model.state_dict() for ref in (corpus.model, tuned))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {part(name) for name in changed} == trained
    if "LoRA" in name:
        assert not any("norm" in each or "embed_tokens" in each for each in changed if part(each) == "language")
        assert not (tuned.file("hf").parent / "adapter").exists()


def part(name: str) -> str:
    """Whose weight this is."""
    if ".visual." not in name:
        return "language"
    return "projector" if ".visual.merger." in name else "tower"
