"""Evaluating a video's questions together against one by one from its pixels, by the number of questions.

    make bench NAME=evaluation
    make bench NAME=evaluation ARGS='--questions 4 --rounds 1'     # a trial: nothing is written

One film (H.264, 64 frames of 112x112 sampled from it) on the small Qwen2.5-VL of `benchmarks.prefix`, 32 tokens an
answer, greedy, questions of some 40 tokens that differ after the video.
- `together`: what `longrl.evaluation.respond` does. The film is decoded and encoded once, and all its questions go to
  vLLM in one call, where they share one prefill of the video.
- `one_by_one`: what lmms-eval's and VLMEvalKit's Qwen2.5-VL wrappers do. Each question decodes the film, cuts patches,
  and goes through transformers' `generate`, the tower and the prompt's prefill included.
Nothing is kept from one round to the next. Seconds are those of the CPU, one thread, median of alternating rounds;
loading the models and starting the engine count for neither. `answers_alike` is the share of answers that are the same
text in both: transformers places text after a video elsewhere than Qwen2.5-VL's report and vLLM do.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, Report, alternate
from benchmarks.prefix import apart, small_model

QUESTIONS = (1, 4, 12)
FRAMES, SIDE, NEW, SECONDS = 64, 112, 32, 64


def run(options: list[str]) -> Report:
    parser = argparse.ArgumentParser(prog="evaluation")
    parser.add_argument("--questions", type=int, nargs="+", default=QUESTIONS)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(options)
    os.environ["OMP_NUM_THREADS"] = "1"
    settings = vars(chosen) | {"frames": FRAMES, "side": SIDE, "new_tokens": NEW}
    report = Report(settings=settings, keep=not options)
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder) / "model")
        film = Path(folder) / "film.mp4"
        write_film(film)
        report.rows = apart(measure, model, film, list(chosen.questions), chosen.rounds)
    for row in report.rows:
        report.bars.append(Bar(f"evaluation.{row['questions']}.speedup", row["speedup"], 1.0))
    return report


def write_film(path: Path) -> None:
    """Noise that changes four times a second."""
    import av
    import numpy as np

    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 2 * SIDE, 2 * SIDE, "yuv420p"
        for _ in range(SECONDS * 4):
            noise = draw.integers(0, 255, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))


def measure(model: Path, film: Path, questions: list[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each number of questions."""
    bench = Contest(model, film)
    rows = []
    for number in questions:
        asked = [f"where does the red circle number {place} go in the end, and why?" for place in range(number)]
        answers: dict[str, list[str]] = {}

        def contestant(name: str, asked: list[str] = asked, answers: dict[str, list[str]] = answers) -> None:
            answers[name] = getattr(bench, name)(asked)

        contestants = {name: lambda name=name: contestant(name) for name in ("together", "one_by_one")}
        seconds = alternate(contestants, rounds, time.process_time)
        alike = sum(a == b for a, b in zip(*answers.values(), strict=True)) / number
        ratio = seconds["one_by_one"] / seconds["together"]
        rounded = {name: round(value, 3) for name, value in (seconds | {"speedup": ratio}).items()}
        rows.append({"questions": number} | rounded | {"answers_alike": alike})
    return rows


class Contest:
    """A student, an engine with its weights, and a film."""

    def __init__(self, model: Path, film: Path) -> None:
        from longrl.models import families
        from longrl.rollout.vllm import Engine
        from longrl.video.sample import plan_frames

        self.student = families.load(model)
        self.student.model.eval()
        self.film, self.plan = film, plan_frames(float(SECONDS), FRAMES, SIDE, SIDE)
        self.engine = Engine(model, max_model_len=1024, kv_cache_gib=0.25)
        for name in ("together", "one_by_one"):
            getattr(self, name)(["what moves?"])  # no first call is measured

    def pixels(self) -> tuple[Any, tuple[int, int, int]]:
        """The film's patches and their grid, decoded anew."""
        import numpy as np

        from longrl.video.decode import each_frame

        return self.student.patches(np.stack(list(each_frame(self.film, self.plan))))

    def together(self, questions: list[str]) -> list[str]:
        import torch

        from longrl.rollout.request import Request

        self.engine.reset_caches()
        pixels, grid = self.pixels()
        with torch.no_grad():
            embeds = self.student.encode([pixels], [grid])[0]
        prompts = [
            self.student.chat.prompt(text, [self.student.chat.video(grid, self.plan.second_per_grid)])
            for text in questions
        ]
        rollouts = self.engine.generate([Request(prompt, (embeds,), 1, 0.0, NEW, 0) for prompt in prompts])
        return [group[0].text for group in rollouts]

    def one_by_one(self, questions: list[str]) -> list[str]:
        import torch

        answers = []
        for text in questions:
            pixels, grid = self.pixels()
            prompt = self.student.chat.prompt(text, [self.student.chat.video(grid, self.plan.second_per_grid)])
            ids = torch.tensor([prompt.expanded])
            video = self.student.model.config.video_token_id
            with torch.no_grad():
                out = self.student.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    mm_token_type_ids=2 * (ids == video).int(),
                    pixel_values_videos=pixels,
                    video_grid_thw=torch.tensor([grid]),
                    second_per_grid_ts=torch.tensor([self.plan.second_per_grid]),
                    max_new_tokens=NEW,
                    do_sample=False,
                )
            answers.append(self.student.chat.decode(out[0, ids.shape[1] :].tolist()))
        return answers
