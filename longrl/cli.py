"""The command `longrl`: what one does beside running the DAG.

longrl diff latest~1 latest                     what changed between two versions of the dataset
longrl export huggingface out/                  the newest dataset in another project's format
longrl import video-r1 set.json --videos films/   questions written elsewhere, into the warehouse
longrl puzzles images folder                    small questions on images or text, for tiny students
longrl plan --recipe qwen2.5-vl-7b --gpus 8     memory and seconds of an RL step, before it is run
longrl compare latest~1 latest                  two evaluated models on the same questions
longrl leaderboard                              the page of all evaluated models, written anew
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from longrl.errors import LongrlError


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--warehouse", default="warehouse", help="folder of all artifacts")
    arguments = argparse.ArgumentParser(prog="longrl", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = arguments.add_subparsers(dest="command", required=True)

    diff = commands.add_parser("diff", parents=[shared], help="compare two versions of the dataset")
    for name, words in (("old", "before"), ("new", "after")):
        diff.add_argument(name, help=f"the dataset {words}: latest, latest~1, a key of curate, or an artifact's folder")
    diff.add_argument("--list", choices=("added", "removed", "changed"), help="also list these rows")
    diff.add_argument("--limit", type=int, default=20, help="rows listed at most")
    diff.add_argument("--json", action="store_true", help="everything as JSON")

    export = commands.add_parser("export", parents=[shared], help="write a dataset in another project's format")
    export.add_argument("format", help="huggingface, llava, longvideo-reason or video-r1")
    export.add_argument("out", help="a folder that is not there yet")
    export.add_argument(
        "--dataset", default="latest", help="latest, latest~1, a key of curate, or an artifact's folder"
    )

    taken = commands.add_parser("import", parents=[shared], help="take questions written elsewhere as a dataset")
    taken.add_argument("format", help="huggingface, llava, longvideo-reason or video-r1")
    taken.add_argument("path", help="file or folder of the dataset")
    taken.add_argument("--videos", default="", help="folder of the videos it asks about, if it does")
    taken.add_argument("--split", default="sft", help="split of rows that name none: sft, rl or eval")
    taken.add_argument(
        "--category", default="", help="category of rows that name none: temporal, goal, spatial, plot, general"
    )

    puzzles = commands.add_parser("puzzles", help="write small questions with known answers, as a LLaVA dataset")
    puzzles.add_argument("kind", choices=("text", "images"), help="what they are about")
    puzzles.add_argument("out", help="a folder that is not there yet")
    puzzles.add_argument("--count", type=int, default=6000, help="how many, for all splits together")
    puzzles.add_argument("--seed", type=int, default=0, help="of what is drawn")

    compare = commands.add_parser("compare", parents=[shared], help="two evaluated models on the same questions")
    for name, words in (("first", "before"), ("second", "after")):
        compare.add_argument(
            name, help=f"the run {words}: latest, latest~1, a key or a folder of benchmark or evaluate; with :MODEL"
        )
    compare.add_argument("--frames", type=int, help="frame budget; else the largest that both were asked at")
    compare.add_argument("--json", action="store_true", help="everything as JSON")

    commands.add_parser("leaderboard", parents=[shared], help="write the page of all models on all benchmarks")

    plan = commands.add_parser("plan", help="memory and seconds of an RL step, and its sequence-parallel degree")
    plan.add_argument("--recipe", default="tiny", help="a name from longrl/recipes, or a generator's")
    plan.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any setting")
    plan.add_argument("--gpus", type=int, default=1, help="GPUs, all alike")
    plan.add_argument("--gpu-gib", type=float, default=80.0, help="memory of each, in GiB")
    plan.add_argument("--frames", type=int, help="frames of a video; else the recipe's frames.budget")
    plan.add_argument("--degree", type=int, help="sequence-parallel degree; else the fastest that fits")
    plan.add_argument("--tflops", type=float, default=250.0, help="rate of one large matrix product")
    plan.add_argument("--measure", action="store_true", help="measure that rate here, on this machine")
    return arguments


def diff(options: argparse.Namespace) -> None:
    from longrl.data.difference import difference
    from longrl.warehouse.artifacts import Warehouse
    from longrl.warehouse.versions import version_of

    warehouse = Warehouse(options.warehouse)
    old, new = (version_of(warehouse, name) for name in (options.old, options.new))
    found = difference(old, new)
    if options.json:
        print(json.dumps(found.document(), indent=1))
        return
    print(found.summary())
    if options.list:
        print("\n".join(found.listing(options.list, options.limit)))


def export(options: argparse.Namespace) -> None:
    from longrl.data.exchange.exporting import export_dataset
    from longrl.warehouse.artifacts import Warehouse
    from longrl.warehouse.versions import version_of

    warehouse = Warehouse(options.warehouse)
    dataset = version_of(warehouse, options.dataset)
    out = export_dataset(dataset, options.format, options.out, warehouse)
    print(f"{dataset.rows} questions of curate/{dataset.key} as {options.format} in {out}")


def take(options: argparse.Namespace) -> None:
    from longrl.config import parse_config
    from longrl.data.exchange.importing import import_dataset, no_videos
    from longrl.data.ingest import ingest
    from longrl.warehouse.artifacts import Warehouse

    names = {"path": options.path, "format": options.format, "split": options.split, "category": options.category}
    config = parse_config({"imported": names})
    warehouse = Warehouse(options.warehouse)
    videos = ingest(config.ingest, options.videos, warehouse) if options.videos else no_videos(warehouse)
    made = import_dataset(config.imported, videos, warehouse)
    print(f"{made.rows} questions, {made.rejects} rejected, {made.path}")


def puzzles(options: argparse.Namespace) -> None:
    from pathlib import Path

    from longrl.data.puzzles import write_puzzles

    out = write_puzzles(options.kind, Path(options.out), options.count, options.seed)
    print(f"{options.count} puzzles in {out}; make pipeline DATASET={out} FORMAT=llava RECIPE=tiny-{options.kind}")


def plan(options: argparse.Namespace) -> None:
    from longrl.config import ConfigError, generation_recipes, load_config, load_generation
    from longrl.diffusion.plan import plan as plan_generator
    from longrl.mrsp.costs import Machine, measured_tflops
    from longrl.mrsp.plan import plan

    pairs = [item.partition("=") for item in options.set]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"--set {wrong[0]}: write it as FIELD=VALUE, for example rl.group_size=16")
    if options.gpus < 1 or options.gpu_gib <= 0 or (options.frames is not None and options.frames < 2):
        raise ConfigError("--gpus must be at least 1, --gpu-gib above 0 and --frames at least 2")
    overrides = {name: value for name, _, value in pairs}
    tflops = measured_tflops() if options.measure else options.tflops
    machine = Machine(options.gpus, options.gpu_gib, tflops)
    if options.recipe in generation_recipes():
        frames = {} if options.frames is None else {"generator.frames": options.frames}
        print(plan_generator(load_generation(options.recipe, overrides | frames), machine))
    else:
        print(plan(load_config(options.recipe, overrides), machine, options.frames, options.degree))


def compare(options: argparse.Namespace) -> None:
    from longrl.evaluation.compare import comparison, print_comparison, run_of
    from longrl.warehouse.artifacts import Warehouse

    warehouse = Warehouse(options.warehouse)
    first, second = (run_of(warehouse, name) for name in (options.first, options.second))
    found = comparison(first, second, options.frames)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print_comparison(found)


def leaderboard(options: argparse.Namespace) -> None:
    from longrl.evaluation.leaderboard import leaderboard
    from longrl.warehouse.artifacts import Warehouse

    print(f"leaderboard: {leaderboard(Warehouse(options.warehouse))}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; what a person can mend is one message and the exit status 1."""
    options = parser().parse_args(arguments)
    try:
        commands = {"diff": diff, "export": export, "import": take, "plan": plan, "compare": compare}
        commands |= {"leaderboard": leaderboard, "puzzles": puzzles}
        commands[options.command](options)
    except LongrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
