"""An hour of video on one GPU: forward and backward of one group on 3,600 frames, about 256k prompt tokens.

    make bench NAME=hour                           # Qwen2.5-VL-3B and 7B, 32k to 256k tokens: needs a GPU
    make bench NAME=hour ARGS='--models 3B'        # one of them; the other's rows stay as they were
    make bench NAME=hour ARGS='--tiny'             # does the script run? A model of nothing on the CPU

The models are built from their published configurations with random weights, in bfloat16; embeddings are random. One
group is a video at a frame a second, 252x448 pixels (144 tokens for every two frames), and 8 responses of 1,024 tokens.
It goes through the trainer's own shared-prefix forward (`longrl.mrsp.prefix.score`) and back to the gradients of all
weights of the language model. Each layer is checkpointed and its input kept in the host's memory (transformers' own);
where the feed-forward part would not leave room, it is computed 16,384 tokens at a time. No optimizer step.

It imports torch, transformers and longrl's own modules on top of these, neither vLLM nor DeepSpeed, so it runs wherever
a GPU can be had for ten minutes. `tflops` counts forward, backward and the one repetition of checkpointing
(`longrl.models.shape`); `share` is that over the rate of one large matrix product, measured first; `attention_share` is
the same for the attention of one layer alone, forward and backward, which is held to 60%. The published system takes
eight A100s for this length.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import time
from types import MethodType
from typing import TYPE_CHECKING, Any

from benchmarks.harness import RESULTS, Bar, Report
from longrl.models.published import PUBLISHED
from longrl.models.shape import Shape, from_config
from longrl.mrsp import costs

if TYPE_CHECKING:
    from longrl.models.base import Student
    from longrl.mrsp.prefix import Group

FRAMES = (450, 900, 1800, 3600)
MODELS = ("3B", "7B")
GROUP, RESPONSE = 8, 1024
SIDES = (18, 32)  # patches: 252x448 pixels
TILE = 16_384  # tokens of a feed-forward part
GIB = 2**30
TINY: dict[str, dict[str, Any]] = {
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [0],
    },
}


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="hour")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--tiny", action="store_true", help="a model of nothing, on any machine; nothing is written")
    chosen = parser.parse_args(options)
    import torch

    report = Report(settings=vars(chosen) | {"group": GROUP, "response": RESPONSE}, keep=not chosen.tiny)
    if chosen.tiny:
        report.rows = list(measure("3B", [4, 8], tiny=True))
        return report
    if not torch.cuda.is_available():
        words = "this benchmark needs an NVIDIA GPU, and there is none here; nothing was measured or written"
        return Report(rows=[{"hour": words}], keep=False)
    for name in chosen.models:  # a process each: the first one's memory is gone when the second starts
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            report.rows += pool.apply(measure, (name, list(chosen.frames)))
    report.bars = bars(report.rows)
    report.rows = rows_of_others(chosen.models) + report.rows
    return report


def bars(rows: list[dict[str, Any]]) -> list[Bar]:
    """At the full hour: that it fits, and how fast attention runs."""
    found = []
    for row in rows:
        if row["frames"] == FRAMES[-1]:
            name = f"hour.{row['model']}"
            found.append(Bar(f"{name}.peak_gib", row.get("peak_gib", float("inf")), row["gpu_gib"], True))
            found.append(Bar(f"{name}.attention_share", row.get("attention_share", 0.0), 0.6))
    return found


def rows_of_others(models: list[str]) -> list[dict[str, Any]]:
    """Rows of the models that this run leaves out, from the last results."""
    last = RESULTS / "hour.json"
    rows = json.loads(last.read_text())["rows"] if last.exists() else []
    return [row for row in rows if row["model"] not in models]


def measure(name: str, frames: list[int], tiny: bool = False) -> list[dict[str, Any]]:
    """A row for each number of frames; one that does not fit says so."""
    import torch

    student, shape = build(name, tiny)
    rate = costs.measured_tflops()
    gpu_gib = torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else 0.0
    response = 16 if tiny else RESPONSE
    step(student, group_of(student, 2, 8))  # no first call is measured
    rows = []
    for number in frames:
        group = group_of(student, number, response)
        tokens = len(group.prefix)
        row = {"model": name, "frames": number, "prompt": tokens, "gpu_gib": round(gpu_gib, 1), "matmul_tflops": rate}
        work = costs.Work(tokens, tokens, response, GROUP, prompts=1, checkpointing="offload")
        tiles = costs.activation_bytes(shape, work.tokens, work) > gpu_gib * GIB / 3
        tile(student, TILE if tiles else work.tokens)
        try:
            row |= {"tiled": tiles} | timed(student, group)
            flops = shape.group(tokens, GROUP, response)
            row["tflops"] = flops.training(recompute=True) / row["seconds"] / 1e12
            row["share"] = row["tflops"] / rate
            alone = attention_seconds(student, tokens, response)
            layer = (flops.attention + 2 * tokens**2 * shape.hidden) / shape.layers  # the last has no prompt queries
            row["attention_share"] = 3.5 * layer / alone / 1e12 / rate
        except torch.OutOfMemoryError:
            row["failed"] = "out of memory"
        student.model.zero_grad(set_to_none=True)
        rows.append(row)
    return rows


def build(name: str, tiny: bool) -> tuple[Student, Shape]:
    """The model from its configuration, random weights, checkpointing on; its tower is frozen."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from longrl.models.qwen2_5_vl import Qwen2_5_VL
    from longrl.models.tiny import train_tokenizer

    config = copy.deepcopy(PUBLISHED[f"Qwen2.5-VL-{name}-Instruct"])
    if tiny:
        for part, changes in TINY.items():
            config[part] |= changes
    gpu = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    with torch.device("cuda" if gpu else "cpu"):
        model: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config)).train()
    torch.set_default_dtype(torch.float32)
    student = Qwen2_5_VL(model, train_tokenizer(["what happens?"], 400), None)
    student.prepare()
    student.freeze("tower", "projector")
    model.gradient_checkpointing_enable(offload=gpu)
    return student, from_config(config)


def group_of(student: Student, frames: int, response: int) -> Group:
    """A question on a video of so many frames at one a second, with random embeddings and responses."""
    import torch

    from longrl.mrsp.prefix import response_group

    prompt = student.chat.prompt("what happens?", [student.chat.video((-(-frames // 2), *SIDES), 2.0)])
    embeds = (torch.randn(prompt.media_tokens, student.width, device=student.device, dtype=student.dtype),)
    draw = random.Random(0)
    return response_group(prompt, embeds, [[draw.randrange(8, 300) for _ in range(response)] for _ in range(GROUP)])


def tile(student: Student, rows: int) -> None:
    """Have the feed-forward layers work on so many tokens at a time, computed once more in the backward."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def forward(self: Any, x: Any) -> Any:
        plain = type(self).forward
        if x.shape[1] <= rows:
            return plain(self, x)
        return torch.cat([checkpoint(plain, self, part, use_reentrant=False) for part in x.split(rows, 1)], 1)

    for layer in student.model.model.language_model.layers:
        layer.mlp.forward = MethodType(forward, layer.mlp)


def step(student: Student, group: Group) -> tuple[float, float]:
    """Forward and backward; the seconds of each."""
    import torch

    from longrl.mrsp.prefix import score

    clock = [now()]
    logprobs = torch.cat(score(student, [group]).logprobs[0])
    clock.append(now())
    advantages = torch.linspace(-1, 1, len(logprobs), device=logprobs.device)
    (-(logprobs - logprobs.detach()).exp() * advantages).sum().backward()
    clock.append(now())
    return clock[1] - clock[0], clock[2] - clock[1]


def timed(student: Student, group: Group) -> dict[str, float]:
    """Seconds and peak memory of one step."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    forward, backward = step(student, group)
    peak = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0
    return {"forward": forward, "backward": backward, "seconds": forward + backward, "peak_gib": peak}


def attention_seconds(student: Student, prompt: int, response: int) -> float:
    """Forward and backward of the attention of one layer, not the last, alone; the second of two."""
    import torch

    from longrl.mrsp.attention import Cascade, Layout

    text = student.model.config.text_config
    layout = Layout(prompt, GROUP, response + 1)
    width = text.hidden_size // text.num_attention_heads
    heads = (text.num_attention_heads, text.num_key_value_heads, text.num_key_value_heads)
    sizes = [(1, count, prompt + GROUP * (response + 1), width) for count in heads]
    q, k, v = (torch.randn(size, device=student.device, dtype=student.model.dtype).requires_grad_() for size in sizes)
    for _ in range(2):
        started = now()
        out = Cascade.apply(q, k, v, layout, width**-0.5, False)
        out.backward(torch.ones_like(out))
        seconds = now() - started
    return seconds


def now() -> float:
    """The clock, once the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
