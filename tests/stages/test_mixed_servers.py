"""A rollout server for a family whose prompts go to vLLM in embeddings."""

import copy

import pytest
import torch

from longrl.rollout.request import Request
from longrl.rollout.server import Servers
from tests.rollouts import agreement, tokens
from tests.separate_sequences import video
from tests.siglip_prompts import BUILDERS, CLASSES, prompts
from tests.stages.test_rollout_servers import folder, server  # noqa: F401 (fixtures)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory):
    return BUILDERS["vila"](tmp_path_factory.mktemp("vila"))


def test_a_server_rolls_out_what_the_trainer_would_with_old_and_new_weights(server, student_folder, folder):  # noqa: F811
    student = CLASSES["vila"].load(student_folder)
    _, url = server
    servers = Servers([url], [url], student, folder)
    servers.update_weights(student.model.state_dict())
    requests = [Request(one, video(student, one, i), 4, 0.8, 24, 7) for i, one in enumerate(prompts(student))]
    rollouts = servers.generate(requests)
    assert agreement(student, requests, rollouts, 0.8).largest < 1e-3
    assert tokens(rollouts) == tokens(servers.generate(requests))
    changed = copy.deepcopy(student)
    changed.prepare()
    with torch.no_grad():
        for parameter in changed.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    servers.update_weights(changed.model.state_dict())
    assert agreement(changed, requests, servers.generate(requests), 0.8).largest < 1e-3
    servers.close()
