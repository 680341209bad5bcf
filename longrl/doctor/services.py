"""Checks of what is asked over the network, and of what a model is taken from: one cheap request each."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx2

from longrl.config import PipelineConfig, TeacherServer
from longrl.doctor.finding import Finding, Level, ok
from longrl.doctor.needs import TRAINED
from longrl.training import hosts
from longrl.training.rank import TrainingError
from longrl.training.trackers import asked_for, missing

PATIENCE = 1.5  # seconds for an answer
REACH = 15.0  # seconds in which another machine must run a command


def teacher(stages: tuple[str, ...], server: TeacherServer) -> Finding:
    """The server behind a stage answers GET /models, accepts the key and has the model."""
    where, url = f"{stages[0]}.server", f"{server.base_url.rstrip('/')}/models"
    key = os.environ.get(server.api_key_env, "").strip()
    asks = f"asked by {' and '.join(stages)}"
    try:
        reply = httpx2.get(url, headers={"authorization": f"Bearer {key or 'none'}"}, timeout=PATIENCE)
    except httpx2.TimeoutException:
        words = f"{url} ({asks}) has not answered within {PATIENCE:g} s"
        return Finding("warning", words, "look whether the server is still loading its model", stages)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        words = f"{url} ({asks}) can't be reached: {told(error)}"
        return Finding("failure", words, f"start the server or set {where}.base_url", stages)
    if reply.status_code in (401, 403):
        unset = "" if key else " (it is not set)"
        words = f"{url} ({asks}) refuses the key: {reply.status_code}"
        return Finding("failure", words, f"put a valid key in {server.api_key_env}{unset}", stages)
    try:
        names = [str(model["id"]) for model in reply.raise_for_status().json()["data"]]
    except (httpx2.HTTPStatusError, ValueError, KeyError, TypeError):
        words = f"{url} ({asks}) does not list its models (status {reply.status_code})"
        level: Level = "warning" if server.model and server.context else "failure"
        return Finding(level, words, f"check {where}.base_url (it usually ends in /v1), or set {where}.model", stages)
    if not names and not server.model:
        return Finding("failure", f"{url} ({asks}) lists no model", f"set {where}.model", stages)
    if server.model and server.model not in names:
        words = f"{url} ({asks}) does not list {server.model!r}"
        known = ", ".join(names[:5]) or "nothing"
        return Finding("warning", words, f"check {where}.model; it lists {known}", stages)
    return ok(f"{server.base_url} answers as {server.model or names[0]}, {asks}")


def machines(config: PipelineConfig, run: tuple[str, ...]) -> list[Callable[[], Finding]]:
    """A check for each machine that stages train on beside this one."""
    wanted: dict[tuple[str, ...], list[str]] = {}
    for stage, settings in (("pretrain", config.pretrain), ("sft", config.sft), ("rl", config.rl)):
        if stage in run and settings.machines > 1:
            try:
                names = hosts.machines(settings.nodes)
            except TrainingError as error:
                return [partial(Finding, "failure", str(error), f"set {stage}.nodes", (stage,))]
            for host in names[1:]:
                command = (
                    *hosts.shell(host, isinstance(settings.nodes, int)),
                    sys.executable,
                    "-m",
                    "longrl.training.node",
                    "--here",
                )
                wanted.setdefault((host, *command), []).append(stage)
    return [partial(machine, host, command, tuple(of)) for (host, *command), of in wanted.items()]


def machine(host: str, command: list[str], stages: tuple[str, ...]) -> Finding:
    """A machine can be reached without a password, and has this Python and longrl."""
    shown = shlex.join(command[:-4])
    try:
        tried = subprocess.run(
            command, capture_output=True, text=True, timeout=REACH, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        words = f"node {host} has not answered `{shown}` within {REACH:g} s"
        return Finding("warning", words, "look whether it is up and free", stages)
    except OSError as error:
        return Finding("failure", f"node {host} can't be reached: {error}", f"mend {hosts.SHELL}", stages)
    if tried.returncode:
        why = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
        remedy = "let ssh in without a password, and have the same code and .venv there at the same paths"
        return Finding("failure", f"node {host}, asked by `{shown}`: {why}", remedy, stages)
    return ok(f"node {host} is reached by `{shown}`, for {' and '.join(stages)}")


def rollout_server(url: str) -> Finding:
    """A server of rollouts (`python -m longrl.rollout.serve`) is healthy."""
    url = url.rstrip("/")
    remedy = "start it: python -m longrl.rollout.serve; or mend rl.rollout.servers"
    try:
        reply = httpx2.get(f"{url}/health", timeout=PATIENCE)
    except httpx2.TimeoutException:
        return Finding("warning", f"the rollout server {url} has not answered within {PATIENCE:g} s", remedy, ("rl",))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return Finding("failure", f"the rollout server {url} can't be reached: {told(error)}", remedy, ("rl",))
    if not reply.is_success:
        return Finding("warning", f"the rollout server {url} is up but not healthy", "look at its log", ("rl",))
    return ok(f"the rollout server {url} is healthy")


def prefect_server(url: str, version: str) -> Finding:
    """The Prefect server at `url` is up and of the same release as this client (`version`); "" is the temporary one."""
    if not url:
        return ok("no Prefect server is configured: each command starts a temporary one for itself")
    remedy = "start it with prefect server start, or unset PREFECT_API_URL to do without"
    try:
        reply = httpx2.get(f"{url.rstrip('/')}/admin/version", timeout=PATIENCE)
        theirs = reply.raise_for_status().json()
    except httpx2.TimeoutException:
        return Finding("warning", f"the Prefect server {url} has not answered within {PATIENCE:g} s", remedy)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Finding("failure", f"the Prefect server {url} is of no use: {told(error)}", remedy)
    if theirs != version:
        words = f"the Prefect server {url} is {theirs}, this client {version}"
        return Finding("warning", words, f"run the same release on both: pip install prefect=={theirs}")
    return ok(f"the Prefect server {url} is up ({theirs})")


def model(config: PipelineConfig) -> Finding:
    """The folder of the student is complete."""
    from longrl.models.families import StudentError, check_folder

    if not config.model.path:
        return ok("the student is built from nothing")
    try:
        folder = check_folder(Path(config.model.path).expanduser())
    except StudentError as error:
        remedy = "download the model and name its folder: SET='model.path=/path/to/Qwen2.5-VL-3B-Instruct'"
        return Finding("failure", str(error), remedy, ("model", *TRAINED))
    return ok(f"the student is {folder}")


def trackers(config: PipelineConfig) -> Finding:
    """The packages that show the metrics of training are there."""
    if lacking := missing(config.tracking):
        names = " and ".join(f"tracking.{name}" for name in lacking)
        words = f"{names} {'is' if len(lacking) == 1 else 'are'} set, and {', '.join(lacking)} not installed"
        return Finding("failure", words, "; ".join(lacking.values()), TRAINED)
    names = ", ".join(["metrics.jsonl", *asked_for(config.tracking)])
    return ok(f"metrics of training go to {names}")


def told(error: Exception) -> str:
    """The cause of a failed request in a few words."""
    from longrl.teachers.faults import root  # here: it loads the openai client

    cause = root(error)
    number = getattr(cause, "errno", None) or 0
    return os.strerror(number) if number > 0 else f"{cause or type(cause).__name__}"
