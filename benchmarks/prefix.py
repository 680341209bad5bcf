"""The prompt computed once, against G repeated prompts: forward and backward of one group's update.

    make bench NAME=prefix
    make bench NAME=prefix ARGS='--prompts 544 --responses 64 --rounds 1'     # a trial: nothing is written

Both sides start from cached embeddings, run the language model of a small Qwen2.5-VL (hidden 256, 8 layers, or 2 for
the two longest prompts, 4 query and 2 key heads, random weights, float32), take the head on response tokens only, in
the same chunks, and end with the gradients of all weights:
- `shared` is the trainer's own `longrl.mrsp.prefix.score`: `[prompt | r_1 | ... | r_8]`.
- `repeated` is 8 rows `[prompt | r_i]` under PyTorch's causal flash attention, in micro-batches of at most 16,384
  tokens, the budget that `shared` has too.
Seconds are those of the CPU, one thread, median of alternating rounds (one for the longest rows without a bar). Beside
each stands the arithmetic limit: the ratio of the two sides' FLOP, by `longrl.models.shape`.

The peak memory of `shared` is measured in a process of its own, over what the process held before, with the allocator
told to give back what is freed, and compared with what `longrl plan` predicts for it (activations and logits);
the bar is an error of at most 20%.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bar, Report, alternate, status_kib
from longrl.config import ModelSettings
from longrl.models.shape import Shape, from_config
from longrl.mrsp import costs

if TYPE_CHECKING:
    from longrl.models.base import Student
    from longrl.models.prompt import Prompt

PROMPTS = (544, 2080, 8224, 16_416)
RESPONSES = (64, 256)
BARS = {544: 4.2, 2080: 6.5, 8224: 7.6, 16_416: 7.8}  # at responses of 64
LONG = 4096  # prompts longer than this are run with 2 layers
GROUP = 8
MIB = 2**20


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="prefix")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--responses", type=int, nargs="+", default=RESPONSES)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(options)
    os.environ["OMP_NUM_THREADS"] = "1"
    report = Report(settings=vars(chosen) | {"group": GROUP, "hidden": 256}, keep=not options)
    with tempfile.TemporaryDirectory() as folder:
        for prompt in chosen.prompts:
            for response in chosen.responses:
                report.rows.append(measure(Path(folder), prompt, response, chosen.rounds))
    for row in report.rows:
        name = f"{row['prompt']}.{row['response']}"
        if row["response"] == 64 and row["prompt"] in BARS:
            report.bars.append(Bar(f"prefix.{name}.speedup", row["speedup"], BARS[row["prompt"]]))
        report.bars.append(Bar(f"prefix.{name}.plan_error", abs(row["planned_mib"] / row["peak_mib"] - 1), 0.2, True))
    return report


def measure(folder: Path, prompt: int, response: int, rounds: int) -> dict[str, Any]:
    """One row: both contestants in one process for their times, `shared` in another for its memory."""
    layers = 2 if prompt > LONG else 8
    rounds = 1 if prompt > LONG and response != RESPONSES[0] else rounds  # minutes each, and no bar hangs on them
    model = small_model(folder / str(layers), layers)
    row = {"prompt": prompt, "response": response, "layers": layers}
    seconds = apart(times, model, prompt, response, rounds)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # else holes in glibc's heap are counted: a third more, and faster
    memory = apart(peaks, model, prompt, response)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return row | seconds | memory


def apart(work: Any, *arguments: Any) -> Any:
    """Result of a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def limit(shape: Shape, prompt: int, response: int) -> float:
    """FLOP of the repeated rows over FLOP of the shared prompt, forward and backward."""
    once = shape.group(prompt, GROUP, response).training()
    return GROUP * shape.row(prompt, response).training() / once


def times(model: Path, prompt: int, response: int, rounds: int) -> dict[str, float]:
    """CPU-seconds of each contestant, their ratio, and its arithmetic limit."""
    student, *group = case(model, prompt, response)
    warm_up(student)
    contestants = {"shared": lambda: shared(student, *group), "repeated": lambda: repeated(student, *group)}
    seconds = alternate(contestants, rounds, time.process_time)
    shape = from_config(student.model.config.to_dict())
    ratios = {"speedup": seconds["repeated"] / seconds["shared"], "limit": limit(shape, prompt, response)}
    return {name: round(value, 3) for name, value in (seconds | ratios).items()}


def peaks(model: Path, prompt: int, response: int) -> dict[str, float]:
    """Peak memory of `shared` over what its process held before, in MiB, and what the plan says."""
    student, *group = case(model, prompt, response)
    warm_up(student)  # leaves gradients, as an update's first forward does
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status_kib("VmRSS")
    shared_once(student, *group)
    measured = (status_kib("VmHWM") - before) / 1024
    work = costs.Work(prompt, 0, response, GROUP, prompts=1, number_bytes=4)
    parts = costs.memory(from_config(student.model.config.to_dict()), work)
    planned = (parts["activations"] + parts["logits"]) / MIB
    return {"peak_mib": round(measured, 1), "planned_mib": round(planned, 1)}


def small_model(folder: Path, layers: int = 8) -> Path:
    """The small Qwen2.5-VL of these benchmarks, random weights, as a Hugging Face folder, which is returned."""
    if not folder.exists():
        apart(write_model, folder, layers)
    return folder


def write_model(folder: Path, layers: int) -> None:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from longrl.models.qwen2_5_vl import Qwen2_5_VL
    from longrl.models.tiny import train_tokenizer

    settings = ModelSettings(
        hidden_size=256,
        layers=layers,
        heads=4,
        feed_forward=768,
        vision_width=128,
        vision_depth=6,
        initializer_range=0.02,
    )
    tokenizer = train_tokenizer(["what moves? the red ball moves left"] * 3, 600)
    config = Qwen2_5_VL.tiny_config(tokenizer, settings)
    config.text_config.num_key_value_heads, config.text_config.vocab_size = 2, 2048
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2_5_VL.tiny_processor(tokenizer).save_pretrained(folder)


def case(model: Path, prompt: int, response: int) -> tuple[Student, Prompt, Any, list[list[int]]]:
    """A student, a prompt of so many tokens on a video of 4x4 tokens a temporal patch, its embeddings and G answers."""
    import torch

    from longrl.models import families

    student = families.load(model)
    student.model.model.visual.requires_grad_(False)
    asked = question(student, (max(prompt // 16 - 2, 1), 8, 8), prompt)
    embeds = (torch.randn(asked.media_tokens, student.width, generator=torch.Generator().manual_seed(0)) * 0.02,)
    draw = random.Random(0)
    return student, asked, embeds, [[draw.randrange(8, 400) for _ in range(response)] for _ in range(GROUP)]


def question(student: Student, grid: tuple[int, int, int], tokens: int) -> Prompt:
    """A prompt on such a video, filled up with words to this many tokens."""
    empty = len(student.chat.prompt("?", [student.chat.video(grid)]).expanded)
    word = len(student.chat.encode(" red"))
    words, rest = divmod(tokens - empty, word)
    prompt = student.chat.prompt("?" * (1 + rest) + " red" * words, [student.chat.video(grid)])
    if len(prompt.expanded) != tokens:
        raise ValueError(f"cannot write a prompt of {tokens} tokens on the grid {grid}; it has {len(prompt.expanded)}")
    return prompt


def shared(student: Student, prompt: Prompt, embeds: Any, answers: list[list[int]]) -> None:
    """Forward and backward with the prompt computed once; the gradients stay."""
    student.model.zero_grad(set_to_none=True)
    shared_once(student, prompt, embeds, answers)


def shared_once(student: Student, prompt: Prompt, embeds: Any, answers: list[list[int]]) -> None:
    """The same, added to the gradients that are there."""
    import torch

    from longrl.mrsp.prefix import response_group, score

    backward(torch.cat(score(student, [response_group(prompt, embeds, answers)]).logprobs[0]))


def repeated(student: Student, prompt: Prompt, embeds: Any, answers: list[list[int]]) -> None:
    """The same with a row for each response."""
    student.model.zero_grad(set_to_none=True)
    for part in micro_batches(prompt, answers):
        backward(repeated_logprobs(student, prompt, embeds, part))


def micro_batches(prompt: Prompt, answers: list[list[int]]) -> list[list[list[int]]]:
    """As many rows at once as the trainer's token budget allows."""
    rows = max(1, costs.FORWARD_TOKENS // (len(prompt.expanded) + len(answers[0])))
    return [answers[start : start + rows] for start in range(0, len(answers), rows)]


def repeated_logprobs(student: Student, prompt: Prompt, embeds: Any, answers: list[list[int]]) -> Any:
    """Logprobs of answers of one length from rows `[prompt | answer]` under plain causal attention."""
    import torch

    from longrl.mrsp.prefix import token_logprobs

    ids = torch.tensor([prompt.expanded + answer[:-1] for answer in answers])
    places = student.positions(prompt, extra=len(answers[0]) - 1)
    inputs = student.token_embeds(ids, {student.chat.pads["video"]: embeds[0].repeat(len(answers), 1)})
    hidden = student.text_hidden(inputs, places[:, None].expand(-1, len(answers), -1))
    rows = hidden[:, len(prompt.expanded) - 1 :].flatten(0, 1)
    return token_logprobs(student, rows, torch.tensor(answers).flatten())[0]


def backward(logprobs: Any) -> None:
    """Backward of a policy loss with advantages of both signs."""
    import torch

    (-(logprobs - logprobs.detach()).exp() * torch.linspace(-1, 1, len(logprobs))).sum().backward()


def warm_up(student: Student) -> None:
    """Both contestants once on a short prompt, so that no first call is measured."""
    import torch

    asked = question(student, (1, 4, 4), 40)
    group = asked, (torch.zeros(asked.media_tokens, student.width),), [[9] * 4] * GROUP
    shared(student, *group)
    repeated(student, *group)
