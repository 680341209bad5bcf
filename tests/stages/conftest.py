"""What tests of stages begin with: a warehouse, a teacher's server that behaves so far, and captions from it."""

import pytest

from longrl.data.caption import caption
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tests.stages.misbehaving_server import MisbehavingServer, answer
from tests.stages.teaching import asked_questions, caption_settings, corpus


@pytest.fixture
def warehouse(tmp_path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


@pytest.fixture
def server():
    """Says the same of every clip."""
    with MisbehavingServer(answer("A red box stands still.")) as running:
        yield running


@pytest.fixture
def writing_server():
    """Writes as many good questions as it is asked for."""
    with MisbehavingServer(asked_questions) as running:
        yield running


@pytest.fixture
def captions(server, warehouse, tmp_path) -> ArtifactRef:
    """Captions of one video of three clips; the server has forgotten their requests and now writes questions."""
    made = caption(caption_settings(server.url), *corpus(warehouse, tmp_path, videos=1), warehouse)
    server.requests.clear()
    server.usual = asked_questions
    return made
