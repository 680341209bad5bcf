"""The command line shared by all flows: recipe, videos, seed, warehouse, teacher, and any setting by `--set`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from prefect import Flow

from flows.server import prefect_server
from longrl.config import ConfigError, PipelineConfig, load_config, recipes
from longrl.errors import LongrlError


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments every flow takes."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--recipe", default="tiny", help=f"one of: {', '.join(recipes())}")
    arguments.add_argument("--videos", help="folder of videos; without it a story corpus is rendered")
    arguments.add_argument("--seed", type=int, help="seed of the corpus, the splits and the training")
    arguments.add_argument("--warehouse", help="folder of all artifacts")
    arguments.add_argument("--teacher", choices=("measured", "openai"), help="who captions and who writes questions")
    arguments.add_argument("--dataset", help="file or folder of questions written elsewhere, to train on")
    arguments.add_argument("--format", help="what --dataset is: huggingface, llava, longvideo-reason or video-r1")
    arguments.add_argument("--runner", choices=("prefect", "ray"), help="what runs the tasks")
    arguments.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any setting, e.g. rl.steps=80"
    )
    arguments.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    return arguments


def config_of(options: argparse.Namespace) -> PipelineConfig:
    """The configuration a command line asks for; raises `ConfigError`."""
    overrides: dict[str, Any] = {}
    names = {"dataset": "imported.path", "format": "imported.format"}
    for name in ("videos", "seed", "warehouse", "runner", "dataset", "format"):
        if (value := getattr(options, name)) is not None:
            overrides[names.get(name, name)] = os.path.abspath(value) if name in ("videos", "dataset") else value
    if options.teacher:
        overrides |= {"caption.teacher": options.teacher, "reason.teacher": options.teacher}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: write it as FIELD=VALUE, for example rl.group_size=16")
        overrides[name] = value
    return load_config(options.recipe, overrides)


@contextmanager
def fail_in_words() -> Iterator[None]:
    """Turn what a person can mend into one message instead of a traceback, and exit with 1."""
    try:
        yield
    except LongrlError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command to go on from here", file=sys.stderr)
        sys.exit(130)


def main(
    description: str,
    run: Flow[..., Any],
    estimate: Callable[[PipelineConfig], Any] | None = None,
) -> None:
    """Parse the command line and run a flow with the configuration it asks for, or its `estimate` of what it costs."""
    arguments = parser(description)
    if estimate is not None:
        arguments.add_argument("--estimate", action="store_true", help="say what the teachers will cost, and stop")
    options = arguments.parse_args()
    with fail_in_words():
        config = config_of(options)
        if options.dry_run:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        elif estimate is not None and options.estimate:
            with prefect_server():
                estimate(config)
        else:
            with prefect_server():
                run(config)
