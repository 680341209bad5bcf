"""A teacher's key out of a Prefect Secret reaches the server, and nothing else."""

import os

import pytest
from prefect.blocks.system import Secret
from prefect.testing.utilities import prefect_test_harness

from longrl.config import ConfigError, TeacherServer
from tasks.keys import export_key


@pytest.fixture(scope="module")
def prefect():
    with prefect_test_harness(server_startup_timeout=180):
        yield


def test_the_key_comes_from_the_secret_and_is_in_no_setting(prefect, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "another")
    Secret(value="sk-out-of-prefect").save("teacher-key")
    server = TeacherServer(api_key_env="TEACHER_KEY", api_key_secret="teacher-key")
    export_key(server)
    assert os.environ["TEACHER_KEY"] == "sk-out-of-prefect"
    assert "sk-out" not in server.model_dump_json()
    with pytest.raises(ConfigError, match="Prefect has no Secret 'nobody'"):
        export_key(TeacherServer(api_key_secret="nobody"))
