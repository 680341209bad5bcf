"""Rollout requests on random video embeddings, for tests of engines, and what every engine must do."""

import copy

import torch

from longrl.mrsp import prefix
from longrl.rollout import parity
from longrl.rollout.request import Request
from tests.separate_sequences import video


def request(student, text="what moves", grid=(12, 4, 4), spacing=1.7, film=0, **options):
    """One prompt; `film` names the random video."""
    prompt = student.chat.prompt(text, [student.chat.video(grid, spacing)] if grid else [])
    embeds = video(student, prompt, film)
    return Request(prompt, embeds, **{"n": 4, "max_tokens": 24, "seed": 7, **options})


def mixed(student, **options):
    """Videos of several lengths and a text."""
    return [
        request(student, "what", (2, 4, 4), 0.5, 1, **options),
        request(student, "who moves to the left", (32, 4, 4), 2.0, 2, **options),
        request(student, "who moves to the left", (5, 6, 2), 9.3, 3, **options),
        request(student, "which", None, **options),
    ]


def agreement(student, requests, rollouts, temperature=1.0):
    """How far the student's logprobs of the rollouts are from the engine's."""
    groups = [
        prefix.response_group(one.prompt, one.embeds, [rollout.token_ids for rollout in group])
        for one, group in zip(requests, rollouts, strict=True)
    ]
    with torch.no_grad():
        logprobs = prefix.score(student, groups, temperature).logprobs
    return parity.measure([str(i) for i in range(len(requests))], rollouts, logprobs)


def new_weights_are_used_and_old_prefixes_forgotten(engine, student, requests=None):
    """Other weights for a while: the rollouts are the other model's, and afterwards the student's again."""
    requests = requests or mixed(student)
    changed = copy.deepcopy(student)
    changed.prepare()  # a copied module keeps the methods bound to the original
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in changed.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    before = tokens(engine.generate(requests))
    try:
        engine.update_weights(changed.model.state_dict())
        after = engine.generate(requests)
    finally:
        engine.update_weights(student.model.state_dict())
    assert agreement(changed, requests, after).largest < 1e-3
    assert agreement(student, requests, after).largest > 0.1
    assert tokens(engine.generate(requests)) == before


def tokens(rollouts):
    return [[rollout.token_ids for rollout in group] for group in rollouts]
