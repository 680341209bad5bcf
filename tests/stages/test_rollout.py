"""The rollout engine: one real vLLM engine for all tests."""

import dataclasses

import pytest
import torch

from longrl.mrsp import prefix
from longrl.rollout.request import EngineError
from tests.rollouts import mixed, new_weights_are_used_and_old_prefixes_forgotten, request


@pytest.fixture(scope="module")
def student(loaded_student):
    return loaded_student


def test_positions_equal_vllms_own(engine, student):
    runner = engine._llm.llm_engine.model_executor.driver_worker.worker.model_runner
    seen = []
    original = type(runner.model).get_mrope_input_positions

    def spy(self, tokens, features):
        result = original(self, tokens, features)
        seen.append((list(tokens), result[0]))
        return result

    requests = mixed(student, n=1, max_tokens=2)
    engine.reset_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runner.model), "get_mrope_input_positions", spy)
        engine.generate(requests)
    assert len(seen) == len(requests)
    for (tokens, theirs), one in zip(seen, requests, strict=True):
        assert tokens == one.prompt.expanded
        assert torch.equal(student.positions(one.prompt), theirs.cpu())


def test_a_rollout_depends_on_its_seed_alone(engine, student):
    one = request(student, n=3)
    alone = engine.generate([one])[0]
    torch.manual_seed(123)
    engine.reset_caches()
    crowded = engine.generate([*mixed(student, seed=50), one])[-1]
    other = engine.generate([dataclasses.replace(one, seed=1000)])[0]
    assert [r.token_ids for r in alone] == [r.token_ids for r in crowded]
    assert [r.token_ids for r in alone] != [r.token_ids for r in other]
    assert len({tuple(r.token_ids) for r in alone}) == 3


def test_generating_leaves_the_trainers_random_state(engine, student):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    engine.generate([request(student)])
    assert torch.equal(torch.rand(3), expected)


def test_greedy_takes_the_most_likely_token(engine, student):
    requests = mixed(student, temperature=0.0, n=2)
    rollouts = engine.generate(requests)
    groups = [
        prefix.response_group(r.prompt, r.embeds, [a.token_ids for a in group])
        for r, group in zip(requests, rollouts, strict=True)
    ]
    with torch.no_grad():
        scored = prefix.score(student, groups)
    assert all(hits.all() for group in scored.correct for hits in group)
    assert all(group[0] == group[1] for group in rollouts)


def test_responses_end_their_turn_or_are_cut(engine, student):
    rollouts = [r for group in engine.generate(mixed(student, max_tokens=200, n=8)) for r in group]
    end = student.chat.end
    for rollout in rollouts:
        assert len(rollout.logprobs) == len(rollout.token_ids)
        assert (rollout.token_ids[-1] == end) == (rollout.finish == "stop")
        assert end not in rollout.token_ids[:-1]
        assert rollout.text == student.chat.decode(rollout.token_ids)
    assert {"stop", "length"} >= {r.finish for r in rollouts}


def test_the_group_shares_one_prefill(engine, student):
    scheduler = engine._llm.llm_engine.engine_core.engine_core.scheduler
    scheduled = []
    original = scheduler.schedule

    def spy(*args, **kwargs):
        output = original(*args, **kwargs)
        scheduled.append(output.total_num_scheduled_tokens)
        return output

    engine.reset_caches()
    long = request(student, grid=(48, 4, 4), film=11, n=8, max_tokens=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "schedule", spy)
        engine.generate([long])
    length = len(long.prompt.expanded)
    assert sum(scheduled) < length + 8 * 32


def test_hundreds_of_requests_in_one_call(engine, student):
    requests = [request(student, f"{i} moves", ((2, 4, 8)[i % 3], 4, 4), film=i, n=1, max_tokens=4) for i in range(300)]
    rollouts = engine.generate(requests)
    assert [len(group) for group in rollouts] == [1] * 300


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: dataclasses.replace(r, embeds=(r.embeds[0][:-1],)), r"request 1: embeddings are \(47, 128\)"),
        (lambda r: dataclasses.replace(r, embeds=(r.embeds[0][:, :64],)), r"needs \(48, 128\)"),
        (lambda r: dataclasses.replace(r, embeds=()), r"request 1: its prompt has video of grid .*0 embeddings"),
        (lambda r: dataclasses.replace(r, max_tokens=500), "larger max_model_len"),
    ],
)
def test_what_would_poison_vllm_is_refused_and_the_engine_lives_on(engine, student, spoil, reason):
    good = request(student)
    with pytest.raises(EngineError, match=reason):
        engine.generate([good, spoil(good)])
    assert len(engine.generate([good])[0]) == 4


def test_videos_that_look_the_same_but_last_longer_share_no_prefill(engine, student):
    long, short = request(student, spacing=9.0), request(student, spacing=1.0)
    engine.generate([long])
    after = engine.generate([short])
    engine.reset_caches()
    assert after == engine.generate([short])


def test_a_missing_head_is_refused(engine, student):
    state = {name: value for name, value in student.model.state_dict().items() if name != "lm_head.weight"}
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        engine.update_weights(state)


def test_updated_weights_are_used_at_once_and_old_prefixes_forgotten(engine, student):
    new_weights_are_used_and_old_prefixes_forgotten(engine, student)
