"""One model on a benchmark of the field: `make evaluate BENCHMARK=videomme DATA=folder MODEL=rl`.

Of a finished evaluation `--redo rejects` asks again what had no answer, such as questions to a busy server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from prefect import flow

from flows.arguments import config_of, fail_in_words, parser
from flows.server import prefect_server
from flows.stages import Stages
from longrl.config import PipelineConfig
from longrl.warehouse.artifacts import Warehouse


@flow(
    name="benchmark",
    flow_run_name="{config.benchmark.name} · {config.benchmark.model}",
    validate_parameters=False,
)
def benchmark(config: PipelineConfig, redo: Literal["", "all", "rejects"] = "") -> str:
    """One model on a benchmark of the field. Returns the path of the artifact."""
    from longrl.evaluation.leaderboard import leaderboard
    from longrl.evaluation.results import print_results

    refresh = frozenset({"benchmark"} if redo else ())
    with Stages(config, Warehouse(config.warehouse, refresh, forget=redo == "all")) as stages:
        made = stages.benchmark()
    print_results(Path(made.path))
    print(f"leaderboard: {leaderboard(stages.warehouse)}", flush=True)
    return made.path


if __name__ == "__main__":
    arguments = parser(__doc__ or "")
    arguments.add_argument("--benchmark", required=True, help="its name, such as videomme")
    arguments.add_argument("--data", required=True, help="folder of its publisher's files")
    arguments.add_argument("--model", help="base, sft, rl, a Hugging Face folder, or openai:<model>")
    arguments.add_argument("--engine", choices=("vllm", "transformers"), help="what generates a local model's answers")
    arguments.add_argument("--frames", help="frame budgets, such as '8 16 32'")
    arguments.add_argument("--redo", default="", choices=("", "all", "rejects"))
    options = arguments.parse_args()
    with fail_in_words():
        chosen: dict[str, str] = {"name": options.benchmark, "data": str(Path(options.data).absolute())}
        chosen |= {name: value for name in ("model", "engine") if (value := getattr(options, name))}
        sets = [f"benchmark.{name}={json.dumps(value)}" for name, value in chosen.items()]
        if options.frames:
            sets.append(f"benchmark.budgets=[{', '.join(options.frames.replace(',', ' ').split())}]")
        options.set = sets + options.set
        config = config_of(options)
        with prefect_server():
            benchmark(config, options.redo)
