"""How the stages hang together: which artifact goes into which stage. Every flow is a part of this."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flows.doctor import gate
from flows.runner import runner
from flows.shown import label
from longrl.config import PipelineConfig
from longrl.data.exchange.importing import no_captions, no_videos, shows_videos
from longrl.doctor.needs import ORDER
from longrl.errors import LongrlError
from longrl.warehouse import catalog
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.benchmark import benchmark
from tasks.caption import caption
from tasks.curate import curate
from tasks.difficulty import difficulty
from tasks.evaluate import evaluate
from tasks.imported import imported
from tasks.ingest import ingest
from tasks.model import model
from tasks.pretrain import pretrain
from tasks.reason import reason
from tasks.rl import rl
from tasks.segment import segment
from tasks.sft import sft
from tasks.stories import stories
from tasks.verify import verify

OPTIONAL = ("verify", "difficulty")  # left out until a setting asks for them


class Stages:
    """One run through the DAG: what each stage made, printed as it is made; `with Stages(config) as stages:`.

    A stage whose artifact is `given` is not run, whatever its settings are.
    """

    def __init__(
        self, config: PipelineConfig, warehouse: Warehouse | None = None, given: Mapping[str, ArtifactRef] | None = None
    ):
        self.config = config
        self.warehouse = warehouse or Warehouse(config.warehouse)
        self.given = dict(given or {})
        self.refs: dict[str, ArtifactRef] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Stages:
        label(self.config)
        self._run = self._opened.enter_context(runner(self.config))
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def run(self, stage: Any, *inputs: Any) -> ArtifactRef:
        """Run one stage, remember its artifact and print its line."""
        if (ref := self.given.get(stage.name)) is None:
            ref = self._run(stage, *inputs, self.warehouse)
        self.refs[ref.stage] = ref
        print(stage_line(ref), flush=True)
        return ref

    @property
    def base(self) -> ArtifactRef:
        """The student that SFT starts from."""
        return self.refs.get("pretrain", self.refs["model"])

    def dataset(self, until: str = "curate") -> None:
        """From videos (or rendered stories) to the curated questions."""
        config, refs, run = self.config, self.refs, self.run
        folder = config.videos
        if config.imported.path and not folder and "ingest" not in self.given and not shows_videos(config.imported):
            refs["ingest"] = no_videos(self.warehouse)
        elif not folder and "ingest" not in self.given:
            folder = str(Path(run(stories, config.stories, config.seed).path) / "videos")
        for stage in self.data_stages(until):
            match stage:
                case "ingest" if "ingest" not in refs:
                    run(ingest, config.ingest, folder)
                case "segment":
                    run(segment, config.segment, refs["ingest"])
                case "caption":
                    run(caption, config.caption, refs["ingest"], refs["segment"])
                case "reason":
                    run(reason, config.reason, refs["caption"], config.seed)
                case "verify" if config.verify.blind_samples or config.verify.judge:
                    run(verify, config.verify, refs["caption"], refs["reason"], config.seed)
                case "curate" if config.imported.path:
                    run(imported, config.imported, refs["ingest"])
                case "curate":
                    videos = refs["ingest"] if config.curate.benchmarks else None  # for their files' names
                    data = (refs["caption"], refs["reason"])
                    run(curate, config.curate, *data, config.seed, videos, refs.get("verify"))
        if config.imported.path and "caption" not in refs:
            refs["caption"] = no_captions(self.warehouse)
        if "curate" in refs:
            label(config, refs["curate"])
        catalog.rebuild(self.warehouse, refs.values())  # to be queried while the training goes on

    def data_stages(self, until: str) -> list[str]:
        """The stages after the videos. Imported questions need no writer, and captions only where these are learned."""
        stages = list(ORDER[1 : ORDER.index(until) + 1])
        if self.config.imported.path:
            phases = (*self.config.pretrain.phases, *self.config.sft.phases)
            learned = any(phase.mixture.clip_captions or phase.mixture.video_captions for phase in phases)
            unneeded = {"reason", "verify"} if learned else {"segment", "caption", "reason", "verify"}
            stages = [stage for stage in stages if stage not in unneeded]
        return stages

    def training(self, until: str = "rl") -> None:
        """From the curated questions to the RL checkpoint."""
        config, refs, run = self.config, self.refs, self.run
        run(model, config.model, refs["caption"], refs["curate"], config.seed)
        data = (refs["curate"], refs["caption"], refs["ingest"])
        if config.pretrain.phases and until != "model":
            run(pretrain, config.pretrain, config.frames, refs["model"], *data, config.seed, config.tracking)
        if until in ("sft", "difficulty", "rl"):
            run(sft, config.sft, config.frames, self.base, *data, config.seed, config.tracking)
        if until in ("difficulty", "rl"):
            self.rate(refs["sft"])
        questions = refs.get("difficulty", refs["curate"])
        if until == "rl" and not questions.facts()["questions"].get("rl"):
            print(f"{'rl':<10} skipped: no question is left for it; give more videos, or lower curate.sft_share")
        elif until == "rl":
            run(rl, config.rl, config.frames, refs["sft"], questions, refs["ingest"], config.seed, config.tracking)

    def rate(self, student: ArtifactRef) -> None:
        """Let a student answer the questions of the RL split, where `difficulty.samples` asks for it."""
        config, refs = self.config, self.refs
        if config.difficulty.samples and refs["curate"].facts()["questions"].get("rl"):
            data = (refs["curate"], refs["ingest"])
            self.run(difficulty, config.difficulty, config.frames, student, *data, config.seed)

    def rate_pretrained(self) -> None:
        """As `rate`, in a run that trains nothing: with the pretrained student, where `model.path` names one."""
        if self.config.difficulty.samples and self.config.model.path:
            self.training(until="model")
            self.rate(self.refs["model"])
            catalog.rebuild(self.warehouse, self.refs.values())

    def evaluation(self) -> None:
        """Base, SFT and RL on the held-out questions."""
        config, refs = self.config, self.refs
        models = {"base": self.base} | {name: refs[name] for name in ("sft", "rl") if name in refs}
        self.run(evaluate, config.evaluate, config.frames, models, refs["curate"], refs["ingest"], config.seed)

    def benchmark(self) -> ArtifactRef:
        """One model on a benchmark; neither comes out of this run."""
        made = self.run(benchmark, self.config.benchmark, self.config.frames, self.config.seed)
        catalog.rebuild(self.warehouse, [made])
        return made

    def until(self, stage: str) -> ArtifactRef:
        """Everything up to and including one stage, if what it takes is there."""
        gate(self.config, stage, self.warehouse.refresh)
        place = ORDER.index(stage)
        self.dataset(until=ORDER[min(place, ORDER.index("curate"))])
        if place > ORDER.index("curate"):
            self.training(until="rl" if stage == "evaluate" else stage)
        if stage == "evaluate":
            self.evaluation()
            catalog.rebuild(self.warehouse, self.refs.values())
        if stage not in self.refs:
            raise LongrlError(f"{stage} has nothing to do in this run; choose another stage or other videos")
        return self.refs[stage]


def stage_line(ref: ArtifactRef) -> str:
    """`caption     2880 rows      0 rejected    34.1 s`, or `cached` instead of the seconds."""
    took = "cached" if ref.cached else f"{ref.seconds:.1f} s"
    return f"{ref.stage:<10}{ref.rows:>8} rows{ref.rejects:>7} rejected{took:>11}"
