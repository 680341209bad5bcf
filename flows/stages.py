"""How the stages hang together: which artifact goes into which stage. Every flow is a part of this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longrl.config import PipelineConfig
from longrl.data.exchange.importing import no_captions
from longrl.errors import LongrlError
from longrl.warehouse import catalog
from longrl.warehouse.artifacts import ArtifactRef, Warehouse
from tasks.caption import caption
from tasks.curate import curate
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

ORDER = ("stories", "ingest", "segment", "caption", "reason", "curate", "model", "pretrain", "sft", "rl", "evaluate")


class Stages:
    """One run through the DAG: what each stage made, printed as it is made."""

    def __init__(self, config: PipelineConfig, refresh: frozenset[str] = frozenset(), forget: bool = True):
        self.config = config
        self.warehouse = Warehouse(config.warehouse, refresh, forget)
        self.refs: dict[str, ArtifactRef] = {}

    def run(self, stage: Any, *inputs: Any) -> ArtifactRef:
        """Run one stage, remember its artifact and print its line."""
        start = stage.submit if self.config.runner == "ray" else stage  # only what is submitted reaches Ray
        ref = start(*inputs, self.warehouse, return_state=True).result()
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
        folder = config.videos or str(Path(run(stories, config.stories, config.seed).path) / "videos")
        for stage in self.data_stages(until):
            match stage:
                case "ingest":
                    run(ingest, config.ingest, folder)
                case "segment":
                    run(segment, config.segment, refs["ingest"])
                case "caption":
                    run(caption, config.caption, refs["ingest"], refs["segment"])
                case "reason":
                    run(reason, config.reason, refs["caption"], config.seed)
                case "curate" if config.imported.path:
                    run(imported, config.imported, refs["ingest"])
                case "curate":
                    run(curate, config.curate, refs["caption"], refs["reason"], config.seed)
        if config.imported.path and "caption" not in refs:
            refs["caption"] = no_captions(self.warehouse)
        catalog.rebuild(self.warehouse, refs.values())  # to be queried while the training goes on

    def data_stages(self, until: str) -> list[str]:
        """The stages after the videos. Imported questions need no writer, and captions only where these are learned."""
        stages = list(ORDER[1 : ORDER.index(until) + 1])
        if self.config.imported.path:
            phases = (*self.config.pretrain.phases, *self.config.sft.phases)
            learned = any(phase.mixture.clip_captions or phase.mixture.video_captions for phase in phases)
            unneeded = {"reason"} if learned else {"segment", "caption", "reason"}
            stages = [stage for stage in stages if stage not in unneeded]
        return stages

    def training(self, until: str = "rl") -> None:
        """From the curated questions to the RL checkpoint."""
        config, refs, run = self.config, self.refs, self.run
        run(model, config.model, refs["caption"], refs["curate"], config.seed)
        data = (refs["curate"], refs["caption"], refs["ingest"])
        if config.pretrain.phases and until != "model":
            run(pretrain, config.pretrain, config.frames, refs["model"], *data, config.seed)
        if until in ("sft", "rl"):
            run(sft, config.sft, config.frames, self.base, *data, config.seed)
        if until == "rl" and not refs["curate"].facts()["questions"].get("rl"):
            print(f"{'rl':<10} skipped: no question is left for it; give more videos, or lower curate.sft_share")
        elif until == "rl":
            run(rl, config.rl, config.frames, refs["sft"], refs["curate"], refs["ingest"], config.seed)

    def evaluation(self) -> None:
        """Base, SFT and RL on the held-out questions."""
        config, refs = self.config, self.refs
        models = {"base": self.base} | {name: refs[name] for name in ("sft", "rl") if name in refs}
        self.run(evaluate, config.evaluate, config.frames, models, refs["curate"], refs["ingest"], config.seed)

    def until(self, stage: str) -> ArtifactRef:
        """Everything up to and including one stage."""
        place = ORDER.index(stage)
        self.dataset(until=ORDER[min(place, ORDER.index("curate"))])
        if place > ORDER.index("curate"):
            self.training(until="rl" if place > ORDER.index("sft") else stage)
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
