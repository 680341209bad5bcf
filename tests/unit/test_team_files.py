"""Set-ups for a team: what their files name is there, in longrl and in the Prefect that the lock holds."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import prefect.settings
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
COMPOSE = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
CLUSTER = list(yaml.safe_load_all((DEPLOYMENTS / "kubernetes/longrl.yaml").read_text()))
FILES = sorted(
    path
    for pattern in ("compose.yaml", "Dockerfile", "example.env", "kubernetes/*", "slurm/*")
    for path in DEPLOYMENTS.glob(pattern)
)
TEMPLATES = sorted((DEPLOYMENTS / "kubernetes").glob("*-pool.json"))


def locked(name: str) -> str:
    """The version of a package in requirements.lock."""
    return re.search(rf"^{name}==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_of_prefect_exist(path):
    named = set(re.findall(r"\bPREFECT_[A-Z_]+\b", path.read_text()))
    unknown = {name for name in named if not hasattr(prefect.settings, name)}
    assert unknown <= {"PREFECT_ADDRESS", "PREFECT_AUTH"}  # compose.yaml's own


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_and_modules_exist(path):
    text = path.read_text()
    for name in re.findall(r"\b(?:deployments|docs|flows)/[\w./-]+\w", text):
        assert (ROOT / name).exists() or "$" in text or name == "deployments/.env", name
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def commands() -> set[tuple[str, ...]]:
    """Every `prefect` command in the files, as words."""
    found = [service["command"].split() for service in COMPOSE["services"].values() if "command" in service]
    for item in CLUSTER:
        pod = item["spec"]["template"]["spec"] if item["kind"] in ("Deployment", "StatefulSet") else {}
        found += [container["args"] for container in pod.get("containers", ()) if "args" in container]
    scripts = [(DEPLOYMENTS / "slurm/worker.sbatch").read_text(), CLUSTER[-1]["spec"]["template"]["spec"]]
    scripts[1] = scripts[1]["initContainers"][0]["args"][0]
    for script in scripts:
        joined = re.sub(r"\\\n\s*", "", script)
        found += [line.split() for line in re.findall(r"prefect (?:worker|work-pool) [^\n&|>]*", joined)]
    return {tuple(words) for words in found if words[0] == "prefect"}


def test_commands_of_prefect_have_their_options():
    asked = {words[1:3] for words in commands()}
    assert asked == {("server", "start"), ("worker", "start"), ("work-pool", "create"), ("work-pool", "inspect")}
    for words in asked:
        command = [sys.executable, "-m", "prefect", *words, "--help"]
        told = subprocess.run(command, capture_output=True, text=True, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"})
        options = {word for each in commands() if each[1:3] == words for word in each if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", told.stdout)), words


def test_images_are_pinned_to_the_lock():
    images = {service["image"] for service in COMPOSE["services"].values()}
    for item in CLUSTER:
        pod = item["spec"].get("template", {}).get("spec", {}) if "spec" in item else {}
        images |= {container["image"] for kind in ("containers", "initContainers") for container in pod.get(kind, ())}
    dockerfile = (DEPLOYMENTS / "Dockerfile").read_text()
    built = set(re.findall(r"--tag (\S+)", dockerfile))
    postgres, worker = "postgres:15.18-bookworm", f"prefecthq/prefect:{locked('prefect')}-python3.11-kubernetes"
    assert images == built | {postgres, worker}
    assert f"uv=={locked('uv')}" in dockerfile
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"vllm==\S+", dockerfile)) < set(project["optional-dependencies"]["gpu"])


def test_compose_services_wait_for_what_they_need_and_have_health_checks():
    services = COMPOSE["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[needed]
        assert name == "register" or "healthcheck" in service
    mounted = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert set(COMPOSE["volumes"]) <= mounted
    env = (DEPLOYMENTS / "example.env").read_text()
    for name in set(re.findall(r"\$\{(\w+)", (DEPLOYMENTS / "compose.yaml").read_text())):
        assert re.search(rf"^{name}=", env, re.MULTILINE), f"{name} is not in example.env"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_placeholders_of_pool_templates_are_variables(path):
    template = json.loads(path.read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert {each["name"] for each in pod["containers"][0]["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    claims = {item["metadata"]["name"] for item in CLUSTER if item["kind"] == "PersistentVolumeClaim"}
    properties = template["variables"]["properties"]
    assert {properties[name]["default"] for name in ("warehouse_claim", "videos_claim")} == claims


@pytest.mark.parametrize("path", sorted((DEPLOYMENTS / "slurm").glob("*.sbatch")), ids=lambda path: path.stem)
def test_batch_scripts_are_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
