"""Metrics reach their trackers once, whatever happens to the training or to the tracker."""

import json
import sys
from importlib.util import find_spec

import pytest

from longrl.config import TrackingSettings, load_config
from longrl.doctor import services
from longrl.training.metrics import MetricsFile
from longrl.training.trackers import TrackingError, asked_for, missing
from longrl.training.tracking import Tracking, tracking
from longrl.warehouse.artifacts import Draft, Warehouse


class Recorder:
    """A tracker that remembers its runs by id, as a server would, and can be out of order."""

    runs: dict[str, list[tuple[int, dict[str, float]]]]

    def __init__(self, runs, state):
        self.runs, self.state, self.place, self.broken = runs, state or {"id": f"run-{len(runs)}"}, "here", False
        self.ends: list[bool] = []
        self.runs.setdefault(self.state["id"], [])

    def log(self, step, values):
        if self.broken:
            raise ConnectionError("no route to host")
        self.runs[self.state["id"]].append((step, values))

    def close(self, finished):
        self.ends.append(finished)


def write(folder, steps, resumed=0):
    metrics = MetricsFile(folder, resumed)
    for step in steps:
        metrics.write(step=step, phase="see", loss=1.0 / step, losses={"captions": 0.5})


def told(runs, name="run-0"):
    return [step for step, _ in runs[name]]


def test_every_step_is_told_once_with_its_numbers(tmp_path):
    runs: dict = {}
    with Tracking(tmp_path, {"recorder": lambda state: Recorder(runs, state)}) as followed:
        write(tmp_path, [1, 2, 4])
        followed.begin()
    assert told(runs) == [1, 2, 4]
    assert runs["run-0"][1] == (2, {"loss": 0.5, "losses/captions": 0.5})
    assert followed.trackers["recorder"].ends == [True]


def test_a_resumed_training_goes_on_with_its_run_without_duplicates(tmp_path):
    runs: dict = {}
    followed = Tracking(tmp_path, {"recorder": lambda state: Recorder(runs, state)})
    write(tmp_path, range(1, 8))
    followed.begin()
    followed.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert followed.trackers["recorder"].ends == [False]
    with Tracking(tmp_path, {"recorder": lambda state: Recorder(runs, state)}) as followed:
        write(tmp_path, range(6, 11), resumed=5)  # the checkpoint was at step 5
        followed.begin()
    assert told(runs) == list(range(1, 11))


def test_a_tracker_out_of_order_costs_a_warning_and_gets_its_steps_later(tmp_path, caplog):
    runs: dict = {}
    with Tracking(tmp_path, {"recorder": lambda state: Recorder(runs, state)}) as followed:
        recorder = followed.trackers["recorder"]
        recorder.broken = True
        write(tmp_path, [1, 2])
        followed._catch_up()
        followed._catch_up()
        assert told(runs) == []
        recorder.broken = False
        followed._catch_up()
    assert told(runs) == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "recorder does not take the metrics of step 1: no route to host"
    ]


def test_a_line_that_is_being_written_is_told_when_it_is_whole(tmp_path):
    runs: dict = {}
    with Tracking(tmp_path, {"recorder": lambda state: Recorder(runs, state)}) as followed:
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
        followed._catch_up()
        assert told(runs) == [1]
        with path.open("a") as file:
            file.write('ss": 0.5}\n')
        followed._catch_up()
    assert told(runs) == [1, 2]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_tracker_without_its_package_is_an_error_that_names_it(tmp_path, package, monkeypatch):
    if find_spec(package):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr("longrl.training.trackers.find_spec", lambda name: None)
    settings = load_config("tiny", {"tracking.wandb.project": "films", "tracking.mlflow.uri": "sqlite://"})
    assert package in missing(settings.tracking)
    assert services.trackers(settings).level == "failure"
    assert f"pip install {package}" in services.trackers(settings).remedy
    only = {"wandb": {"project": "films"}} if package == "wandb" else {"mlflow": {"uri": "sqlite://"}}
    with pytest.raises(TrackingError, match=f"package {package} is not installed: pip install {package}"):
        tracking(TrackingSettings.model_validate(only), draft(tmp_path), {})


def draft(tmp_path) -> Draft:
    warehouse = Warehouse(tmp_path)
    folder = tmp_path / "sft" / ".draft-0123456789abcdef"
    folder.mkdir(parents=True)
    return Draft("sft", folder, warehouse.ledger("sft"))


def test_without_tensorboard_the_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("longrl.training.trackers.find_spec", lambda name: None)
    assert asked_for(TrackingSettings()) == []
    made = draft(tmp_path)
    with tracking(TrackingSettings(), made, {}) as followed:
        write(made.folder, [1])
        followed.begin()
    assert made.facts == {}


def test_a_training_that_ends_before_its_first_step_is_told_in_its_own_words(tmp_path):
    pytest.importorskip("tensorboard")

    def broken() -> None:
        with tracking(TrackingSettings(), draft(tmp_path), {}) as followed:
            followed.begin()
            raise ValueError("no step was taken")

    with pytest.raises(ValueError, match="no step was taken"):
        broken()


def test_tensorboard_reads_what_a_resumed_training_wrote(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = draft(tmp_path)
    for steps, resumed in ((range(1, 5), 0), (range(3, 7), 2)):
        with tracking(TrackingSettings(), made, {}) as followed:
            write(made.folder, steps, resumed)
            followed.begin()
    events = accumulator.EventAccumulator(made.facts["tracked"]["tensorboard"])
    events.Reload()
    assert [one.step for one in events.Tensors("loss")] == [1, 2, 3, 4, 5, 6]


def test_mlflow_goes_on_with_its_run(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    made = draft(tmp_path)
    for steps, resumed in ((range(1, 5), 0), (range(3, 7), 2)):
        with tracking(TrackingSettings(tensorboard=False, mlflow={"uri": uri}), made, {"ranks": 2}) as followed:
            write(made.folder, steps, resumed)
            followed.begin()
    client = mlflow.MlflowClient(tracking_uri=uri)
    [run] = client.search_runs([client.get_experiment_by_name("longrl").experiment_id])
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert run.info.status == "FINISHED"


def test_wandb_goes_on_with_its_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = draft(tmp_path)
    settings = TrackingSettings(tensorboard=False, wandb={"project": "films"})
    for steps, resumed in ((range(1, 5), 0), (range(3, 7), 2)):
        with tracking(settings, made, {"ranks": 2}) as followed:
            write(made.folder, steps, resumed)
            followed.begin()
    state = json.loads((made.folder / ".tracking.json").read_text())["wandb"]
    assert state["told"] == 6
    assert all(folder.name.endswith(state["run"]["id"]) for folder in (tmp_path / "wandb").glob("offline-run-*"))
