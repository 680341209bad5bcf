import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no wrong answer
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory):
    """A small random Qwen2.5-VL as a Hugging Face folder; do not write into it."""
    from tests.tiny_student import build_student

    return build_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="session")
def loaded_student(student_folder):
    """The same, loaded in float32; do not change its weights."""
    from longrl.models import families

    return families.load(student_folder)


@pytest.fixture(scope="session")
def engine(student_folder):
    """One vLLM engine for all tests of a session (20 s to start); leave it with the student's own weights."""
    from longrl.rollout.vllm import Engine

    with Engine(student_folder, max_model_len=512) as engine:
        yield engine
