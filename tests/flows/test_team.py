"""A team's set-up: Prefect's server on a real PostgreSQL, work pools apart for data and GPUs, and their workers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.postgres import missing, postgres
from tests.flows.serving import ROOT, SMALL, serve

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "")]
TEMPLATES = ROOT / "deployments" / "kubernetes"
ON_GPUS = {"pipeline", "train", "evaluate", "generate", "model", "pretrain", "sft", "difficulty", "rl"}


@pytest.fixture(scope="module")
def database():
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def served(database, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database.url)
        with serve(tmp_path_factory.mktemp("team"), **SMALL) as running:
            yield running


def prefect(served, *words: str) -> None:
    """A command of Prefect's, told to this server."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    done = subprocess.run(command, env=served.environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def register(served, data: str, gpu: str, *arguments: str) -> dict[str, dict]:
    """Register all deployments for two pools; returns them."""
    pools = {"LONGRL_DATA_POOL": data, "LONGRL_GPU_POOL": gpu, "LONGRL_ARGUMENTS": " ".join(arguments)}
    command = [sys.executable, "-m", "deployments.register"]
    subprocess.run(command, env=served.environment | pools, cwd=ROOT, check=True)
    return served.deployments()


def test_the_pipeline_runs_to_its_end_on_a_server_with_postgresql(served, database):
    run = served.start("pipeline/pipeline")
    assert served.state(run, seconds=900)["type"] == "COMPLETED"
    version, *_ = database.ask("SHOW server_version_num")
    assert int(version) >= 140009
    assert "pg_trgm" in database.ask("SELECT extname FROM pg_extension")
    assert database.ask(f"SELECT state_type FROM flow_run WHERE id = '{run}'") == ["COMPLETED"]
    (finished,) = database.ask("SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED'")
    assert int(finished) >= 11
    assert not (served.home / "prefect.db").exists()


def test_prefect_takes_the_templates_of_kubernetes_pools_and_their_deployments(served):
    for pool in ("data", "gpu"):
        template = TEMPLATES / f"{pool}-pool.json"
        prefect(
            served, "work-pool", "create", f"k8s-{pool}", "--type", "kubernetes", "--base-job-template", str(template)
        )
    deployments = register(served, "k8s-data", "k8s-gpu")
    pools = {item["name"]: item for item in served.ask("/work_pools/filter")}
    assert pools["k8s-gpu"]["type"] == "kubernetes"
    assert pools["k8s-gpu"]["base_job_template"] == json.loads((TEMPLATES / "gpu-pool.json").read_text())
    for name, deployment in deployments.items():
        assert deployment["work_pool_name"] == ("k8s-gpu" if Path(name).name in ON_GPUS else "k8s-data"), name


def test_a_data_worker_takes_the_data_half_and_leaves_the_rest(served, tmp_path):
    settings = [f"'--set={name}={value}'" for name, value in SMALL.items()]
    register(served, "team-data", "team-gpu", "--warehouse", str(tmp_path / "warehouse"), *settings)
    pools = {item["name"]: item["type"] for item in served.ask("/work_pools/filter")}
    assert pools["team-data"] == pools["team-gpu"] == "process"
    trained, made = served.start("stage/model"), served.start("dataset/dataset")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "team-data", "--type", "process"]
    with subprocess.Popen(command, env=served.environment, cwd=ROOT, stdout=subprocess.DEVNULL) as worker:
        try:
            assert served.state(made, seconds=300)["type"] == "COMPLETED"
        finally:
            worker.kill()  # asked to end just after a run, Prefect's worker sometimes waits for ever
    assert served.run(trained)["state_type"] == "SCHEDULED"
    assert {path.name for path in (tmp_path / "warehouse").iterdir() if path.is_dir()} >= {"caption", "curate"}
