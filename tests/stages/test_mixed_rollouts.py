"""Rollouts of families that vLLM takes by id and by embedding: VILA on its `llm/`, LLaVA-OneVision."""

import dataclasses

import pytest

from longrl.rollout.request import EngineError, Request
from longrl.rollout.vllm import Engine
from tests.rollouts import agreement, new_weights_are_used_and_old_prefixes_forgotten
from tests.separate_sequences import video
from tests.siglip_prompts import BUILDERS, CLASSES, prompts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BUILDERS)
def both(request, tmp_path_factory):
    folder = BUILDERS[request.param](tmp_path_factory.mktemp(request.param))
    with Engine(folder, max_model_len=512) as engine:
        yield engine, CLASSES[request.param].load(folder)


def asked(student, seed=0, **options):
    """Requests of every kind of prompt."""
    options = {"n": 4, "max_tokens": 24, "seed": 7, **options}
    return [Request(one, video(student, one, seed + i), **options) for i, one in enumerate(prompts(student))]


def test_the_trainer_agrees_on_every_token(both):
    engine, student = both
    for temperature in (1.0, 0.6):
        requests = asked(student, temperature=temperature)
        gap = agreement(student, requests, engine.generate(requests), temperature)
        assert gap.tokens > 100
        assert gap.largest < 1e-3
        assert gap.mean < 1e-5


def test_a_group_shares_one_prefill_and_another_video_shares_nothing(both):
    engine, student = both
    scheduler = engine._llm.llm_engine.engine_core.engine_core.scheduler
    scheduled, original = [], scheduler.schedule

    def spy(*args, **kwargs):
        output = original(*args, **kwargs)
        scheduled.append(output.total_num_scheduled_tokens)
        return output

    engine.reset_caches()
    one, other = (asked(student, seed, n=8, max_tokens=1)[2] for seed in (20, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "schedule", spy)
        engine.generate([one])
        first, again = sum(scheduled), len(scheduled)
        engine.generate([other])
    length = len(one.prompt)
    assert first < length + 8 * 32
    assert sum(scheduled[again:]) >= length


def test_new_weights_are_used_and_old_prefixes_forgotten(both):
    engine, student = both
    new_weights_are_used_and_old_prefixes_forgotten(engine, student, asked(student))


def test_embeddings_that_do_not_fit_are_refused_and_the_engine_lives_on(both):
    engine, student = both
    good = asked(student)[0]
    bad = dataclasses.replace(good, embeds=(good.embeds[0][:-1],))
    with pytest.raises(EngineError, match="request 1: embeddings are"):
        engine.generate([good, bad])
    assert len(engine.generate([good])[0]) == 4
