"""One whole RL step, ours against TRL's GRPOTrainer, on the same small model, frames and tokens.

    make bench NAME=rl_step
    make bench NAME=rl_step ARGS='--frames 16 --rounds 1'     # a trial: nothing is written

The model is the small Qwen2.5-VL of `benchmarks.prefix` (hidden 256, 8 layers, vision depth 6, random weights). A step
is one question on one video of 112x112 frames, G = 8 samples of 32 tokens, random rewards, one AdamW update, float32.
TRL takes no video, so it gets every second frame as an image: one temporal patch holds two frames, the token count is
the same, and our question is filled up with words to TRL's prompt length.

What a step contains:
- `ours`: the embeddings from the cache, 8 rollouts by vLLM, advantages, the shared-prefix update by the trainer's own
  functions under DeepSpeed, and the new weights into vLLM. The first step also cuts, encodes and stores the video.
- `trl`: processing 8 x F/2 images, encoding and generation by transformers, the encoding and the update again: all of
  it each step, as GRPOTrainer does. Its defaults, but in float32 (there is no GPU) and without activation
  checkpointing, which it has on by default: that makes it faster and larger. `trl_shipped` has it on.
- `trl_fairest`: the tower frozen as ours is, micro-batches of one response, no checkpointing.
TRL may not sample special tokens: a sampled image pad would stop it.

Each contestant has a process of its own, one thread, and takes its steps when it is told to, in turns: several short
steps in a row, as in training, for after a pause a process finds neither its data nor its code in the caches. Seconds
are those of the CPU; `first` is the first step, warm-up and all, `seconds` the median of the later ones. `peak_mib` is
the largest resident memory of the process, libraries included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import socket
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bar, Report, peak_mib
from benchmarks.prefix import GROUP, question, small_model

if TYPE_CHECKING:
    from longrl.config import RlSettings
    from longrl.models.base import Student
    from longrl.rollout.request import Request, Rollout
    from longrl.training.engine import Engine

FRAMES = (16, 64, 256)
BARS = {16: 4.0, 64: 8.0, 256: 14.0}
TURN = {16: 10, 64: 3}  # steps of a turn; 1 at 256 frames
SIDE, NEW = 112, 32  # pixels; tokens of a response
TRL: dict[str, dict[str, Any]] = {
    "trl": {"micro_batch": 8, "frozen": False, "checkpointing": False},
    "trl_shipped": {"micro_batch": 8, "frozen": False, "checkpointing": True},
    "trl_fairest": {"micro_batch": 1, "frozen": True, "checkpointing": False},
}


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="rl_step")
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(options)
    os.environ["OMP_NUM_THREADS"] = "1"
    report = Report(settings=vars(chosen) | {"group": GROUP, "new_tokens": NEW, "side": SIDE}, keep=not options)
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder) / "model")
        for frames in chosen.frames:
            rows = compare(model, frames, chosen.rounds, TURN.get(frames, 1))
            report.rows += rows.values()
            report.bars += bars(frames, rows)
    return report


def bars(frames: int, rows: dict[str, dict[str, Any]]) -> list[Bar]:
    """Ratios of TRL to ours that are held to something."""
    ours, name = rows["ours"], f"rl_step.{frames}"
    found = [Bar(f"{name}.against_trl", rows["trl"]["seconds"] / ours["seconds"], BARS.get(frames, 1.0))]
    if frames == FRAMES[-1]:
        fairest = rows["trl_fairest"]["seconds"] / ours["seconds"]
        found.append(Bar(f"{name}.against_trl_fairest", fairest, 10.0))
        found.append(Bar(f"{name}.trl_memory_over_ours", rows["trl"]["peak_mib"] / ours["peak_mib"], 6.0))
    return found


def compare(model: Path, frames: int, rounds: int, turn: int) -> dict[str, dict[str, Any]]:
    """All contestants on a video of so many frames: a first step each, then `rounds` in which each takes its turn."""
    steps = rounds * turn + 1
    workers = {name: Worker(trl, model, frames, steps, *how.values()) for name, how in TRL.items()}
    first = {name: worker.step() for name, worker in workers.items()}
    prompt = first["trl"]["prompt"]
    workers = {"ours": Worker(ours, model, frames, steps, prompt)} | workers
    first["ours"] = workers["ours"].step()
    later: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            later[name] += [worker.step() for _ in range(turn)]
    for worker in workers.values():
        worker.close()
    return {
        name: {
            "frames": frames,
            "prompt": prompt,
            "contestant": name,
            "first": round(first[name]["seconds"], 3),
            "seconds": round(statistics.median(step["seconds"] for step in steps_), 3),
            "response": statistics.mean(step["response"] for step in steps_),
            "peak_mib": round(steps_[-1]["peak_mib"]),
        }
        for name, steps_ in later.items()
    }


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, work: Any, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *arguments), name=work.__name__, daemon=True)
        self.process.start()
        theirs.close()

    def step(self) -> dict[str, Any]:
        """Have it take one step; the figures that it reports."""
        try:
            self.pipe.send("step")
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"{self.process.name} has ended; its words are above") from None

    def close(self) -> None:
        self.process.join(30)
        self.process.terminate()


def film(frames: int) -> Any:
    """Noise, (F, side, side, 3), uint8."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 255, (frames, SIDE, SIDE, 3), dtype=np.uint8)


def figures(seconds: float, prompt: int, response: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "prompt": prompt,
        "response": response,
        "peak_mib": peak_mib(),
    }


def ours(pipe: Connection, model: Path, frames: int, steps: int, tokens: int) -> None:
    """Steps as `longrl.training.rl_loop` takes them, on a prompt of so many tokens."""
    import torch

    from longrl.config import RlSettings
    from longrl.models import families
    from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey, VideoEmbeds
    from longrl.rollout import vllm
    from longrl.rollout.request import Request
    from longrl.training.engine import Engine, join

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    join("cpu")
    settings = RlSettings(group_size=GROUP, max_tokens=NEW, prompts_per_step=1)
    student = families.load(model)
    student.model.model.visual.requires_grad_(False)
    engine = Engine(student.model, settings)
    context = -(-(tokens + NEW) // 128) * 128
    sampler = vllm.Engine(model, context, kv_cache_gib=kv_cache_gib(student, tokens))
    cache = EmbeddingCache(model.parent / f"embeddings-{frames}")
    key = EmbeddingKey("0" * 64, str(frames), student.tower_digest(), "float32")
    pictures, draw = film(frames), random.Random(0)
    for number in range(steps):
        pipe.recv()
        started = time.process_time()
        video = cache.get(key)
        if video is None:
            pixels, grid = student.patches(pictures)
            with torch.no_grad():
                video = VideoEmbeds(student.encode([pixels], [grid])[0], grid)
            cache.put(key, video)
        prompt = question(student, video.grid, tokens)
        request = Request(prompt, (video.embeds,), GROUP, 1.0, NEW, seed=number)
        rollouts = sampler.generate([request])[0]
        update(engine, student, settings, request, rollouts, [draw.random() for _ in rollouts])
        with engine.whole() as whole:
            sampler.update_weights(whole.state_dict())
        seconds = time.process_time() - started
        response = sum(len(rollout.token_ids) for rollout in rollouts) / GROUP
        pipe.send(figures(seconds, len(prompt.expanded), response))


def kv_cache_gib(student: Student, tokens: int) -> float:
    """What one group needs, by `longrl plan`."""
    from longrl.models.shape import from_config
    from longrl.mrsp.costs import Work, kv_cache_bytes

    work = Work(tokens, 0, NEW, GROUP, prompts=1, number_bytes=4)
    return kv_cache_bytes(from_config(student.model.config.to_dict()), work) / 2**30


def update(
    engine: Engine,
    student: Student,
    settings: RlSettings,
    request: Request,
    rollouts: list[Rollout],
    rewards: list[float],
) -> None:
    """The trainer's own update of one group."""
    import torch

    from longrl.training.algorithms import algorithm
    from longrl.training.rl_rollout import Batch, Sample
    from longrl.training.rl_update import Updater
    from longrl.training.stopwatch import Stopwatch

    chosen, earned = algorithm(settings), list[float | None](rewards)
    advantages = chosen.advantages(torch.tensor([rewards]), torch.ones(1, len(rewards), dtype=torch.bool))[0]
    sample = Sample("q", "plan", request, rollouts, [], earned, advantages)
    Updater(engine, student, None, chosen, settings, Stopwatch()).update(Batch([sample], [sample]), 1e-4)


def trl(
    pipe: Connection, model: Path, frames: int, steps: int, micro_batch: int, frozen: bool, checkpointing: bool
) -> None:
    """Steps of GRPOTrainer, with transformers' own generation."""
    import torch
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from longrl.models.tiny import SPECIAL

    student: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    student.model.visual.requires_grad_(not frozen)
    processor = AutoProcessor.from_pretrained(model)
    images = [Image.fromarray(frame) for frame in film(frames)[::2]]
    question = {"prompt": [{"role": "user", "content": "what moves?"}], "images": images}
    prompt: list[int] = []  # tokens of the first forward's rows
    student.model.language_model.register_forward_pre_hook(
        lambda module, inputs, named: None if prompt else prompt.append(named["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [random.random() for _ in completion_ids]

    class Turns(TrainerCallback):
        """Takes a step when told to; what is between two steps counts for the later one, waiting costs nothing."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = time.process_time() - self.started
            pipe.send(figures(seconds, prompt[0], sum(lengths) / len(lengths)))
            if state.global_step < steps:
                self.wait()

        def wait(self) -> None:
            pipe.recv()
            self.started = time.process_time()

    config = GRPOConfig(
        output_dir=str(model.parent / "trl"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=GROUP // micro_batch,
        num_generations=GROUP,
        max_completion_length=NEW,
        max_steps=steps,
        learning_rate=1e-4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=checkpointing,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(list(SPECIAL))},
    )
    GRPOTrainer(
        model=student,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([question] * 16),
        processing_class=processor,
        callbacks=[Turns()],
    ).train()
