"""A rollout server for a family whose prompts go to vLLM in embeddings."""

import copy

import pytest
import torch

from longrl.rollout.request import EngineError, Request
from longrl.rollout.server import Servers
from tests.rollouts import agreement, tokens
from tests.separate_sequences import video
from tests.served import served
from tests.siglip_prompts import BUILDERS, CLASSES, prompts


@pytest.mark.slow  # a server of its own
def test_a_server_rolls_out_what_the_trainer_would_with_old_and_new_weights(tmp_path):
    folder = BUILDERS["vila"](tmp_path / "model")
    student = CLASSES["vila"].load(folder)
    changed = copy.deepcopy(student)
    changed.prepare()  # a copied module keeps the methods bound to the original
    with torch.no_grad():
        for parameter in changed.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    requests = [Request(one, video(student, one, i), 4, 0.8, 24, 7) for i, one in enumerate(prompts(student))]
    with served(folder, tmp_path / "server.log") as (_, url):
        servers = Servers([url], [url], student, tmp_path)
        with pytest.raises(EngineError, match="push weights before the first rollout"):
            servers.generate(requests)
        for weights in (student, changed):
            servers.update_weights(weights.model.state_dict())
            rollouts = servers.generate(requests)
            assert agreement(weights, requests, rollouts, 0.8).largest < 1e-3
            assert tokens(rollouts) == tokens(servers.generate(requests))
        servers.close()
