"""Training on two machines: here a network namespace plays the second, and a cut cable its loss."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longrl.config import FrameSettings, Mixture, Phase, SftSettings, load_config
from longrl.doctor import services
from longrl.training import hosts, nodes
from longrl.training.rank import RankLost, TrainingError
from longrl.training.sft import sft
from longrl.warehouse.artifacts import Warehouse
from tests.namespaces import SHELL, elsewhere, missing
from tests.story_corpus import make_corpus

LOOP = """
import os, signal, socket, time
import torch, torch.distributed as dist
from longrl.training.rank import TrainingError

def main(job, messages):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    what = job["what"]
    if what == "sum":
        dist.init_process_group("gloo")
        total = torch.tensor([float(rank + 1)])
        dist.all_reduce(total)
        messages.send("summed", rank=rank, local=int(os.environ["LOCAL_RANK"]), world=world, total=float(total),
                      interfaces=[name for _, name in socket.if_nameindex()], from_first=os.environ["FROM_THE_FIRST"])
        return
    messages.send("started", rank=rank, pid=os.getpid())
    if what == "explain" and rank == world - 1:
        raise TrainingError("loss was NaN; lower the learning rate")
    if what == "crash" and rank == world - 1:
        raise ValueError("the last words of the last rank")
    if what == "killed" and rank == world - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "frozen" and rank == world - 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
"""
FRAMES = FrameSettings(budget=8, budgets=(4, 8))
SFT = SftSettings(
    phases=(Phase(name="mixed", steps=6, warmup=1, mixture=Mixture(questions=3, reading=2, clip_captions=2)),),
    checkpoint_every=2,
)
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "")


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setenv(hosts.SHELL, SHELL)
    with elsewhere(os.getpid() % 250) as machine:
        yield machine


@pytest.fixture
def run(other, tmp_path, monkeypatch):
    """Starts the loop above on both machines; `run.seen` are the messages so far."""
    (tmp_path / "loop_on_nodes.py").write_text(LOOP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FROM_THE_FIRST", "yes")

    def start(what, ranks=1, act=None):
        def listen(message):
            start.seen.append(message)
            if act and sum(m["kind"] == "started" for m in start.seen) == 2 * ranks:
                act()

        nodes.launch("loop_on_nodes", {"what": what}, ranks, (other.here, other.there), tmp_path / "draft", listen)

    start.seen = []
    return start


def nobody_left(run, other, seconds: float = 15.0) -> bool:
    """Whether the other machine has no process, and no rank lives on here."""
    return wait_until(lambda: not left(run, other), seconds)


def wait_until(true, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not true():
        time.sleep(0.1)
    return true()


def left(run, other) -> list[int]:
    ranks = [m["pid"] for m in run.seen if m["kind"] == "started"]
    return other.pids() + [pid for pid in ranks if os.path.exists(f"/proc/{pid}")]


def test_ranks_of_both_machines_are_one_group(run, other):
    run("sum", ranks=2)
    said = sorted((m for m in run.seen if m["kind"] == "summed"), key=lambda m: m["rank"])
    assert [(m["rank"], m["local"], m["world"], m["total"]) for m in said] == [
        (rank, rank % 2, 4, 10.0) for rank in range(4)
    ]
    ours = [name for _, name in socket.if_nameindex()]
    assert [m["interfaces"] == ours for m in said] == [True, True, False, False]
    assert {m["from_first"] for m in said} == {"yes"}
    assert nobody_left(run, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("explain", TrainingError, r"^loss was NaN; lower the learning rate$"),
        ("crash", TrainingError, r"(?s)rank 1 on node {there} exited with status 1.*the last words of the last rank"),
        ("killed", RankLost, "rank 1 on node {there} was ended by SIGKILL"),
    ],
)
def test_a_failed_rank_ends_both_machines_and_is_named(run, other, what, error, words):
    with pytest.raises(error, match=words.format(there=other.there)):
        run(what)
    assert nobody_left(run, other)


@pytest.mark.slow
def test_a_machine_that_dies_is_named_at_once(run, other):
    died = []

    def die():
        died.append(time.monotonic())
        for pid in other.pids():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(RankLost, match=f"node {other.there} was lost: .* ended with status"):
        run("wait", act=die)
    assert time.monotonic() - died[0] < 20.0
    assert nobody_left(run, other)


@pytest.mark.slow
def test_a_machine_behind_a_cut_cable_is_named_and_ends_its_ranks_itself(run, other, monkeypatch):
    remote, port, cut = Path(__file__).parents[1] / "remote_shell.py", "4711", []
    served = ["ip", "netns", "exec", other.there, sys.executable, str(remote), "serve", other.there, port]
    monkeypatch.setenv(hosts.SHELL, shlex.join([sys.executable, str(remote), "{host}", port]))

    def pull():
        cut.append(time.monotonic())
        other.cut()

    with subprocess.Popen(served, stdout=subprocess.PIPE) as shell:
        assert shell.stdout.readline() == b"ready\n"
        with pytest.raises(RankLost, match=f"node {other.there} was lost: it has given no sign of life for"):
            run("wait", act=pull)
        told = time.monotonic() - cut[0]
        assert wait_until(lambda: other.pids() == [shell.pid], 60.0 - told)
        shell.kill()
    assert told < 60.0


def test_a_machine_out_of_reach_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.delenv(hosts.SHELL, raising=False)
    names = (socket.gethostname(), "gpu7.invalid")
    with pytest.raises(TrainingError, match=r"(?s)node gpu7.invalid could not be started: `ssh .*resolve hostname"):
        nodes.launch("loop_on_nodes", {}, 1, names, tmp_path, print)


def test_nodes_that_cannot_be_are_refused_in_words(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(TrainingError, match=r"nodes is 2, but this runs in no SLURM job"):
        hosts.machines(2)
    with pytest.raises(TrainingError, match=r"nodes begins with 192.0.2.7, but this is "):
        hosts.machines(("192.0.2.7", "gpu2"))
    with pytest.raises(ValueError, match="name at least one machine, and each once"):
        SftSettings(nodes=("gpu1", "gpu1"))
    with pytest.raises(ValueError, match="must divide the ranks of all machines, which are 6"):
        SftSettings(ranks=3, nodes=("gpu1", "gpu2"), sequence_parallel=4)
    assert SftSettings(ranks=3, nodes=("gpu1", "gpu2"), sequence_parallel=6).machines == 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 6, brief=True, heads=2)


def train(corpus, folder, **changes):
    refs = (corpus.model, corpus.dataset, corpus.captions, corpus.videos)
    return sft(SFT.model_copy(update=changes), FRAMES, *refs, Warehouse(folder), 0)


def result(ref) -> tuple[list[float], bytes]:
    rows = [json.loads(line) for line in ref.file("metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows], ref.file("hf/model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1500)  # four trainings and their torchruns
def test_two_machines_take_the_steps_of_two_ranks_and_go_on_when_one_is_lost(corpus, other, tmp_path, monkeypatch):
    one = train(corpus, tmp_path / "one", ranks=2)
    both = {"ranks": 1, "nodes": (other.here, other.there)}
    two = train(corpus, tmp_path / "two", **both)
    assert result(two) == result(one)

    hear, killed = nodes.hear, []

    def listen(message, to):
        hear(message, to)
        if not killed and list((tmp_path / "lost").glob("sft/.draft-*/.checkpoints/step-*/state.json")):
            killed.append(time.monotonic())
            for pid in other.pids():
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(nodes, "hear", listen)
    with pytest.raises(RankLost, match=f"node {other.there} was lost"):
        train(corpus, tmp_path / "lost", **both)
    assert time.monotonic() - killed[0] < 60.0
    resumed = train(corpus, tmp_path / "lost", **both)
    assert resumed.facts()["resumed_from"] >= 2
    assert result(resumed) == result(one)


def test_the_doctor_asks_every_other_machine(other, monkeypatch):
    config = load_config("tiny", {"sft.nodes": f"[{other.here}, {other.there}]", "rl.nodes": "[gpu1, gpu7.invalid]"})
    (here,) = services.machines(config, ("sft",))
    assert here().level == "ok"
    assert f"node {other.there} is reached by `ip netns exec {other.there}`, for sft" in here().says
    monkeypatch.delenv(hosts.SHELL)
    _, far = services.machines(config, ("sft", "rl"))
    found = far()
    assert (found.level, found.stages) == ("failure", ("rl",))
    assert "node gpu7.invalid, asked by `ssh " in found.says
    assert "resolve hostname" in found.says
