"""Shows the steps of a training in TensorBoard, W&B or MLflow, by following its `metrics.jsonl`.

It runs in the stage's process, in a thread: ranks know nothing of it, and a slow tracker slows nobody. What each was
told is kept in the draft (`.tracking.json`), so a resumed training goes on with the same run: steps taken again after a
crash are not told again. A step is noted before it is told, so that none is ever told twice.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from longrl.config import TrackingSettings
from longrl.training.trackers import Mlflow, TensorBoard, Tracker, Wandb, asked_for, require
from longrl.warehouse.artifacts import METRICS, Draft

EVERY = 2.0  # seconds between looks at the file
PATIENCE = 15.0  # seconds a tracker may hold up the end of a training
STATE = ".tracking.json"

log = logging.getLogger(__name__)
Opener = Callable[[dict[str, str]], Tracker]  # makes a tracker, or finds its run again by the state it left


class Tracking:
    """Follows one training from `begin`, when its file has been cut back to the checkpoint, to the end of the block."""

    def __init__(self, folder: Path, openers: dict[str, Opener]):
        self._folder = folder
        path = folder / STATE
        self._state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.trackers: dict[str, Tracker] = {}
        for name, opener in openers.items():
            known = self._state.setdefault(name, {"told": 0, "run": {}})
            self.trackers[name] = opener(known["run"])
            known["run"] = self.trackers[name].state
        self._save()
        self._read = 0  # bytes of the file
        self._waiting: dict[str, list[dict[str, Any]]] = {name: [] for name in self.trackers}
        self._troubled: set[str] = set()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Follow the file from now on; a second call changes nothing."""
        if self._thread is None and self.trackers:
            self._thread = threading.Thread(target=self._follow, daemon=True, name="tracking")
            self._thread.start()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                log.warning("the last metrics were not taken within %.0f s by %s", PATIENCE, ", ".join(self.trackers))
                return
            self._catch_up()
        for name, tracker in self.trackers.items():
            try:
                tracker.close(finished=kind is None)
            except Exception as trouble:
                log.warning("%s could not be closed: %s", name, trouble)

    def _follow(self) -> None:
        while not self._ended.wait(EVERY):
            self._catch_up()

    def _catch_up(self) -> None:
        """Tell each tracker the steps that are new to it."""
        try:
            with (self._folder / METRICS).open("rb") as file:
                file.seek(self._read)
                lines = file.read().split(b"\n")
        except FileNotFoundError:  # videos are decoded before the first step
            return
        self._read += sum(len(line) + 1 for line in lines[:-1])  # the last is not finished yet, or empty
        steps = [json.loads(line) for line in lines[:-1]]
        for name, tracker in self.trackers.items():
            self._waiting[name] += steps
            self._tell(name, tracker)

    def _tell(self, name: str, tracker: Tracker) -> None:
        """Tell one tracker what is waiting for it; what it could not take waits for the next time."""
        known, waiting = self._state[name], self._waiting[name]
        while waiting:
            step = int(waiting[0]["step"])
            before = known["told"]
            if step > before:
                known["told"] = step
                self._save()
                try:
                    tracker.log(step, flat(waiting[0]))
                except Exception as trouble:  # a tracker's trouble is no reason to end a training
                    known["told"] = before
                    self._save()
                    if name not in self._troubled:
                        log.warning("%s does not take the metrics of step %d: %s", name, step, trouble)
                        self._troubled.add(name)
                    return
            waiting.pop(0)
            self._troubled.discard(name)

    def _save(self) -> None:
        draft = self._folder / f"{STATE}.new"
        draft.write_text(json.dumps(self._state))
        draft.replace(self._folder / STATE)


def tracking(settings: TrackingSettings, draft: Draft, parameters: dict[str, Any]) -> Tracking:
    """Follow the training in `draft` as settings ask for; where it can be looked at is noted in the draft's facts.

    `parameters` are what the run is made with. Raises `TrackingError` when a tracker is asked for that can't be had.
    """
    require(settings)
    key = draft.folder.name.removeprefix(".draft-")
    root = draft.folder.parents[1]
    name = f"{draft.stage}-{key[:8]}"
    events = root / "tensorboard" / draft.stage / key[:8]
    resumed = (draft.folder / STATE).exists()
    every: dict[str, Opener] = {
        "tensorboard": lambda run: TensorBoard(events, resumed),
        "wandb": lambda run: Wandb(settings.wandb, name, parameters, root, run),
        "mlflow": lambda run: Mlflow(settings.mlflow, name, parameters, run),
    }
    if settings.tensorboard and "tensorboard" not in asked_for(settings):
        log.info("no events are written for TensorBoard, for it is not installed: pip install tensorboard")
    made = Tracking(draft.folder, {chosen: every[chosen] for chosen in asked_for(settings)})
    if made.trackers:
        draft.facts["tracked"] = {chosen: tracker.place for chosen, tracker in made.trackers.items()}
    return made


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line of metrics, those of inner dictionaries under `outer/inner`, without the step.

    >>> flat({"step": 3, "phase": "see", "loss": 0.5, "losses": {"captions": 0.25}, "kl": None})
    {'loss': 0.5, 'losses/captions': 0.25}
    """
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            numbers |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and prefix + name != "step":
            numbers[prefix + name] = float(value)
    return numbers
