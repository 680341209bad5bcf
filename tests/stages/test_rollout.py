"""The rollout engine and the parity gate, on one real vLLM engine."""

import copy
import dataclasses

import pytest
import torch

from longrl.models import qwen2_5_vl
from longrl.mrsp import prefix
from longrl.rollout import parity
from longrl.rollout.vllm import EngineError, Request

GRID, SPACING = (12, 4, 4), 1.7


@pytest.fixture(scope="module")
def student(loaded_student):
    return loaded_student


def request(student, text="what moves", grid=GRID, spacing=SPACING, film=0, **options):
    prompt = student.chat.prompt(text, grid, spacing)
    shape = (prompt.video_tokens, student.hidden_size)
    embeds = torch.randn(shape, generator=torch.Generator().manual_seed(film)) if grid else None
    return Request(prompt, embeds, **{"n": 4, "max_tokens": 24, "seed": 7, **options})


def mixed(student, **options):
    """Videos of several lengths and a text."""
    return [
        request(student, "what", (2, 4, 4), 0.5, 1, **options),
        request(student, "who moves to the left", (32, 4, 4), 2.0, 2, **options),
        request(student, "who moves to the left", (5, 6, 2), 9.3, 3, **options),
        request(student, "which", None, **options),
    ]


def check(student, requests, rollouts, tolerance=1e-3, **options):
    names = [f"q{i}" for i in range(len(requests))]
    return parity.check(
        student, names, [f"plan{i}" for i in range(len(names))], requests, rollouts, tolerance, **options
    )


def test_the_trainer_agrees_with_the_engine_on_mixed_videos(engine, student):
    requests = mixed(student)
    gap = check(student, requests, engine.generate(requests))
    assert gap.tokens > 100
    assert gap.metrics["logprob_gap_max"] < 5e-4


def test_logprobs_are_of_the_sampling_distribution(engine, student):
    requests = mixed(student, temperature=0.6)
    assert check(student, requests, engine.generate(requests)).largest < 5e-4


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
        assert torch.equal(qwen2_5_vl.positions(student, one.prompt), theirs.cpu())


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
        prefix.response_group(r.prompt, r.video_embeds, [a.token_ids for a in group])
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
        (lambda r: dataclasses.replace(r, video_embeds=r.video_embeds[:-1]), r"request 1: embeddings are \(47, 128\)"),
        (lambda r: dataclasses.replace(r, video_embeds=r.video_embeds[:, :64]), r"needs \(48, 128\)"),
        (lambda r: dataclasses.replace(r, video_embeds=None), r"request 1: its prompt has grid"),
        (lambda r: dataclasses.replace(r, max_tokens=500), "larger max_model_len"),
    ],
)
def test_what_would_poison_vllm_is_refused_and_the_engine_lives_on(engine, student, spoil, reason):
    good = request(student)
    with pytest.raises(EngineError, match=reason):
        engine.generate([good, spoil(good)])
    assert len(engine.generate([good])[0]) == 4


@pytest.fixture
def rolled_out(engine, student):
    requests = [request(student, film=3, max_tokens=16)]
    return requests, engine.generate(requests)


@pytest.mark.parametrize(
    "change",
    [{"second_per_grid": 1.0}, {"grid": (6, 4, 8)}],
    ids=["another spacing", "another grid of as many tokens"],
)
def test_another_prompt_in_the_trainer_is_caught(student, rolled_out, change):
    requests, rollouts = rolled_out
    prompts = [dataclasses.replace(requests[0].prompt, **change)]
    with pytest.raises(parity.ParityError, match=r"question q0, sample \d: token \d+ .* Frame plan plan0; grid \("):
        check(student, requests, rollouts, 0.01, prompts=prompts)


def test_another_frame_count_is_caught(student, rolled_out):
    requests, rollouts = rolled_out
    fewer = request(student, grid=(6, 4, 4), film=3)
    fewer = dataclasses.replace(fewer, video_embeds=requests[0].video_embeds[::2])
    with pytest.raises(parity.ParityError, match=r"grid \(6, 4, 4\)"):
        check(student, [fewer], rollouts, 0.01)


@pytest.mark.parametrize("wrong", ["flat", "shifted", "transformers"])
def test_wrong_positions_are_caught(student, rolled_out, wrong, monkeypatch):
    requests, rollouts = rolled_out
    right = qwen2_5_vl.positions

    def positions(student, prompt, extra=0):
        good = right(student, prompt, extra).clone()
        if wrong == "flat":
            return torch.arange(good.shape[1]).expand(3, -1)
        text = len(prompt.context)
        # one step on; or as transformers 5.19 goes on after a video, ignoring how long it lasts
        good[:, text:] += 1 if wrong == "shifted" else len(prompt.head) + max(prompt.grid[1:]) // 2 - int(good[0, text])
        return good

    monkeypatch.setattr(qwen2_5_vl, "positions", positions)
    with pytest.raises(parity.ParityError, match="q0"):
        check(student, requests, rollouts, 0.01)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no rollout token"):
        parity.measure([], [], [])


def test_a_missing_head_is_refused(engine, student):
    state = {name: value for name, value in student.model.state_dict().items() if name != "lm_head.weight"}
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        engine.update_weights(state)


def test_updated_weights_are_used_at_once_and_old_prefixes_forgotten(engine, student):
    changed = copy.deepcopy(student)
    qwen2_5_vl.prepare(changed.model)  # a copied module keeps the methods bound to the original
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in changed.model.model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    requests = mixed(student)
    before = engine.generate(requests)
    try:
        engine.update_weights(changed.model.state_dict())
        after = engine.generate(requests)
        assert check(changed, requests, after).largest < 5e-4
        with pytest.raises(parity.ParityError, match="Compare weights"):
            check(student, requests, after)
    finally:
        engine.update_weights(student.model.state_dict())
    again = engine.generate(requests)
    assert [[r.token_ids for r in group] for group in again] == [[r.token_ids for r in group] for group in before]
