"""Whether this machine and its surroundings are fit for a configuration, told before anything long starts.

Each check is a small function that returns one `Finding`: fit, doubtful, or broken with the remedy. They look, load
nothing heavy, and run side by side, so that a pipeline can afford them at its start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from longrl.config import PipelineConfig
from longrl.doctor import accelerator, machine, services
from longrl.doctor.finding import Finding
from longrl.doctor.needs import ENGINES, TRAINED, servers, stages
from longrl.errors import LongrlError

__all__ = ["Finding", "NotFit", "examine", "in_the_way"]


class NotFit(LongrlError):
    """The run would certainly break; the message says why and what to do."""


def examine(
    config: PipelineConfig, until: str = "evaluate", prefect_url: str | None = None, prefect_version: str = ""
) -> list[Finding]:
    """All findings for a run up to the stage `until`; `prefect_url` None leaves the Prefect server out."""
    run = stages(config, until)
    checks: list[Callable[[], Finding]] = [
        machine.python,
        machine.decoders,
        partial(machine.warehouse, config),
        partial(machine.disk, config, run),
        partial(machine.videos, config),
    ]
    if prefect_url is not None:
        checks.append(partial(services.prefect_server, prefect_url, prefect_version))
    asked = defaultdict(list)
    for stage, server in servers(config, run):
        asked[server.base_url, server.api_key_env, server.model, bool(server.context)].append((stage, server))
    checks += [partial(services.teacher, tuple(s for s, _ in group), group[0][1]) for group in asked.values()]
    if set(run) & {*TRAINED, *ENGINES}:
        gpus = accelerator.visible()
        checks += [
            partial(services.model, config),
            partial(services.trackers, config),
            partial(machine.memory, config, run, bool(gpus.names)),
            partial(machine.shared_memory, config, run, len(gpus.names)),
            partial(accelerator.gpu, config, run, gpus),
            partial(accelerator.cuda, gpus, accelerator.torch_cuda(), accelerator.driver_cuda()),
        ]
        checks += services.machines(config, run)
        if set(run) & set(ENGINES):
            checks += [
                partial(accelerator.vllm, config, gpus, accelerator.installed),
                partial(accelerator.flash_attn, gpus, accelerator.installed),
            ]
        if "rl" in run:
            checks += [partial(services.rollout_server, url) for url in config.rl.rollout.servers]
    with ThreadPoolExecutor(len(checks)) as pool:
        findings = list(pool.map(lambda check: check(), checks))
    return [replace(one, stages=tuple(stage for stage in one.stages if stage in run)) for one in findings]


def in_the_way(findings: list[Finding], config: PipelineConfig, refresh: frozenset[str] = frozenset()) -> list[Finding]:
    """The failures that break the run for certain.

    Where every stage that needs a thing has made an artifact before, it may be needed no more: what is finished is not
    computed again. Stages in `refresh` are.
    """

    def may_be_finished(stage: str) -> bool:
        return stage not in refresh and any(Path(config.warehouse).glob(f"{stage}/*/manifest.json"))

    broken = [finding for finding in findings if finding.level == "failure"]
    return [one for one in broken if not (one.stages and all(map(may_be_finished, one.stages)))]
