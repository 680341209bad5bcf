"""`make ui` as a team uses it: every deployment there, a run from the form in a real browser, and a clean end."""

import os
import signal
import sqlite3
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import yaml

from flows.stages import OPTIONAL, ORDER
from tests.flows.killing import found
from tests.flows.serving import ROOT, SMALL, serve, wait_for

CHROMIUM = Path("/usr/bin/chromium")
FILE = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
PICTURES = os.environ.get("LONGRL_SCREENSHOTS")  # a folder, to look at what the tests saw

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("ui"), **SMALL) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


def picture(tab, name):
    if PICTURES:
        tab.wait_for_timeout(1500)
        tab.screenshot(path=f"{PICTURES}/{name}.png")


def open_form(tab, served, name):
    """Click *Run*, then *Custom run*, on a deployment's page."""
    tab.goto(f"{served.url}/deployments/deployment/{served.deployments()[name]['id']}")
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_text("Custom run").click()
    tab.get_by_role("button", name="Submit").wait_for()


def field(tab, *names):
    """A field of the form below its sections."""
    box = tab.locator("form")
    for name in names:
        label = f".schema-form-property__label:text-is('{name} (Optional)')"
        box = box.locator(f".schema-form-property:has(> .p-label__header {label})")
    return box


def submit(tab, served):
    """Submit the form and return the id of the flow run that it made."""
    before = made_by_people(served)
    tab.get_by_role("button", name="Submit").click()
    wait_for(lambda: made_by_people(served) - before, 60)
    (run_id,) = made_by_people(served) - before
    return run_id


def made_by_people(served):
    return {run["id"] for run in served.ask("/flow_runs/filter") if not run["auto_scheduled"]}


def test_every_deployment_of_the_file_is_there_and_starts_filled_in(served):
    there = served.deployments()
    assert len(there) == len(FILE["deployments"])
    assert there["pipeline/pipeline"]["parameters"]["config"]["rl"]["steps"] == 3
    assert set(there["stage/caption"]["parameters"]["config"]) == {"recipe", "warehouse", "seed", "caption"}
    nightly = there["dataset/nightly"]
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert nightly["global_concurrency_limit"]["limit"] == 1
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["timezone"], schedule["active"]) == ("Etc/UTC", True)


def test_a_value_out_of_bounds_is_refused_and_starts_nothing(served, tab):
    open_form(tab, served, "stage/stories")
    field(tab, "Stories", "Count").locator("input").fill("1")
    tab.get_by_role("button", name="Submit").click()
    tab.wait_for_timeout(3000)
    picture(tab, "refused")
    assert made_by_people(served) == set()
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.start("stage/stories", config={"stories": {"count": 1}})
    assert "1 is less than the minimum of 4" in refused.value.read().decode()


@pytest.fixture(scope="module")
def completed(served, browser):
    """A run of the pipeline, started from its form with two fields changed."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    open_form(tab, served, "pipeline/pipeline")
    assert "[at least 4]" in field(tab, "Stories", "Count").inner_text()
    picture(tab, "form-top")
    field(tab, "Stories", "Count").locator("input").fill("10")
    picture(tab, "form-stories")
    field(tab, "RL", "Steps").locator("input").fill("2")
    picture(tab, "form-rl")
    run_id = submit(tab, served)
    state = served.state(run_id, seconds=540)
    tab.goto(f"{served.url}/runs/flow-run/{run_id}")
    tab.get_by_text("Completed").first.wait_for()
    picture(tab, "run")
    tab.close()
    assert state["type"] == "COMPLETED", state["message"]
    return served.run(run_id)


def task_states(served, run_id):
    return [task["state_name"] for task in served.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})]


def test_a_run_from_the_form_computes_what_was_typed(served, completed):
    assert completed["name"].startswith("tiny")
    assert completed["parameters"]["config"]["stories"]["count"] == 10
    (videos,) = (served.home.parent / "warehouse/stories").glob("*/videos")
    assert len(list(videos.iterdir())) == 10
    states = task_states(served, completed["id"])
    assert states == ["Completed"] * (len(ORDER) - len(OPTIONAL))


def test_the_form_hands_the_data_half_to_ray(served, tab):
    pytest.importorskip("prefect_ray")
    open_form(tab, served, "dataset/dataset")
    field(tab, "Runner").locator(".p-select button").focus()
    tab.keyboard.press("Space")
    tab.get_by_text("ray", exact=True).click()
    field(tab, "Stories", "Count").locator("input").fill("8")
    picture(tab, "form-ray")
    run = submit(tab, served)
    state = served.state(run, seconds=540)
    assert state["type"] == "COMPLETED", state["message"]
    assert "runner: ray" in served.run(run)["tags"]
    tab.goto(f"{served.url}/runs/flow-run/{run}")
    tab.get_by_text("Artifacts", exact=True).click()
    tab.get_by_text("curate-counts").first.wait_for()
    picture(tab, "artifacts")


def test_a_stage_is_rerun_alone_and_what_follows_is_still_there(served, completed, tab):
    open_form(tab, served, "stage/caption")
    picture(tab, "form-stage")
    alone = submit(tab, served)
    assert served.state(alone)["type"] == "COMPLETED"
    assert task_states(served, alone) == ["Completed"]
    again = served.start("pipeline/pipeline", config=completed["parameters"]["config"])
    assert served.state(again)["type"] == "COMPLETED"
    assert set(task_states(served, again)) == {"Cached"}  # the captions' bytes are the same


def test_a_failed_run_says_what_to_mend(served, tab, tmp_path):
    config = {"recipe": "tiny", "warehouse": str(tmp_path / "warehouse"), "videos": str(tmp_path)}
    run_id = served.start("stage/ingest", config=config)
    state = served.state(run_id)
    assert state["type"] == "FAILED"
    assert f"no videos in {tmp_path}" in state["message"]
    tab.goto(f"{served.url}/runs/flow-run/{run_id}")
    tab.get_by_text("Failed").first.wait_for()
    picture(tab, "failed")


def test_a_second_one_on_the_port_says_so_in_words(served):
    command = [sys.executable, "-m", "deployments.ui", "--port", str(served.port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"port {served.port} can't be used" in done.stderr
    assert f"make ui PORT={served.port + 1}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("moment", ["a process starts", "a stage computes"])
def test_ctrl_c_in_the_middle_of_a_run_leaves_no_process(tmp_path, moment):
    with serve(tmp_path, **SMALL | {"stories.count": "200"}) as running:
        run_id = running.start("dataset/dataset")
        if moment == "a process starts":  # too early for the run to report itself
            wait_for(lambda: found(running, "run"), 300)
            assert running.run(run_id)["state_type"] == "PENDING"
            running.process.stdout.close()  # as when the terminal is closed
        else:
            wait_for(lambda: list((tmp_path / "warehouse/stories").glob(".draft-*")), 300)
            assert running.run(run_id)["state_type"] == "RUNNING"
            assert len(running.processes()) > 4
        running.process.send_signal(signal.SIGINT)
        running.process.wait(120)
        assert running.process.returncode == 0
        assert running.processes() == []
    with sqlite3.connect(tmp_path / "prefect/prefect.db") as database:
        ((state,),) = database.execute("SELECT state_type FROM flow_run WHERE NOT auto_scheduled")
    assert state == "CRASHED"
