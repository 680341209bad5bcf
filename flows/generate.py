"""RL for an image or video generator: `make generate-rl RECIPE=tiny-image`, or the deployment `generate` in the UI.

prompts -> generator -> conditioning -> (flowmatch, of a tiny one) -> flowgrpo -> compare -> report
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.arguments import fail_in_words
from flows.server import prefect_server
from flows.shown import tag
from flows.stages import stage_line
from longrl.config import ConfigError, GenerateConfig, generation_recipes, load_generation
from longrl.warehouse import catalog
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.compare import compare
from tasks.conditioning import conditioning
from tasks.flowgrpo import flowgrpo
from tasks.flowmatch import flowmatch
from tasks.generator import generator
from tasks.prompts import prompts


@flow(name="generate", flow_run_name="{config.recipe} · seed {config.seed}")
def generate(config: GenerateConfig) -> Path:
    """Prompts in, a generator that earns more reward and its report out; returns the report's path."""
    from longrl.diffusion.report import report
    from longrl.diffusion.summary import lines

    started = time.monotonic()
    tag({f"recipe: {config.recipe}", "generator"})
    warehouse = Warehouse(config.warehouse)
    refs = stages(config, warehouse)
    catalog.rebuild(warehouse, refs.values())
    run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{config.recipe}-{secrets.token_hex(2)}"
    page = report(config, refs, warehouse, run_id, minutes=(time.monotonic() - started) / 60)
    text = "\n".join(lines(json.loads(page.with_name("summary.json").read_text())))
    create_markdown_artifact(f"```\n{text}\n```\n", key="generation-results", description="Before and after RL")
    create_link_artifact(page.as_uri(), link_text=f"report {page.parent.name}", key="report", description=str(page))
    print(f"\n{text}\n\nreport: {page}", flush=True)
    return page


def stages(config: GenerateConfig, warehouse: Warehouse) -> Mapping[str, ArtifactRef]:
    """Every stage in order, each printed as it is made."""
    refs: dict[str, ArtifactRef] = {}
    sizes, seed = config.generator, config.seed

    def run(stage: Any, *inputs: Any) -> ArtifactRef:
        ref: ArtifactRef = stage(*inputs, warehouse, return_state=True).result()
        refs[ref.stage] = ref
        print(stage_line(ref), flush=True)
        return ref

    wanted = run(prompts, config.prompts, sizes, seed)
    start = run(generator, sizes, wanted, seed)
    words = run(conditioning, sizes, start, wanted)
    if not sizes.path:
        start = run(flowmatch, config.pretrain, sizes, start, wanted, words, seed, config.tracking)
    after = run(flowgrpo, config.rl, sizes, start, wanted, words, seed, config.tracking)
    run(compare, config.compare, config.rl, sizes, start, after, wanted, words, seed)
    return refs


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--recipe", default="tiny-image", help=f"one of: {', '.join(generation_recipes())}")
    arguments.add_argument("--seed", type=int, help="seed of the split, the tiny generator and the training")
    arguments.add_argument("--warehouse", help="folder of all artifacts")
    arguments.add_argument("--model", help="folder of a diffusers pipeline")
    arguments.add_argument("--prompts", help="file of prompts")
    arguments.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any setting, e.g. rl.steps=80"
    )
    arguments.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    return arguments


def config_of(options: argparse.Namespace) -> GenerateConfig:
    """The configuration a command line asks for; raises `ConfigError`."""
    overrides: dict[str, Any] = {}
    names = {"seed": "seed", "warehouse": "warehouse", "model": "generator.path", "prompts": "prompts.path"}
    for option, name in names.items():
        if (value := getattr(options, option)) is not None:
            overrides[name] = str(Path(value).absolute()) if option in ("model", "prompts") else value
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: write it as FIELD=VALUE, for example rl.group_size=16")
        overrides[name] = value
    return load_generation(options.recipe, overrides)


if __name__ == "__main__":
    options = parser().parse_args()
    with fail_in_words():
        config = config_of(options)
        if options.dry_run:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        else:
            with prefect_server():
                generate(config)
