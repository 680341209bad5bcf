"""The rollout engine of a rank, kept alive: what fails is made anew, given the weights again, and asked again, once.

A crash or a lack of memory ends an engine, not the run. All ranks learn of it at the end of the call and make their
engines anew together, since starting one is collective; samples have seeds of their own, so the ranks that had not
failed get the same rollouts again. The shards of a tensor-parallel engine wait for each other inside a call: there a
failure ends the run, which then resumes from its checkpoint.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from longrl.config import RlSettings
from longrl.models.base import Student
from longrl.models.families import load
from longrl.models.lora import merged
from longrl.rollout import vllm
from longrl.rollout.reference import Reference, engine_for
from longrl.rollout.request import EngineError, EngineLost, Request, Rollout, RolloutEngine
from longrl.rollout.server import Servers

T = TypeVar("T")
log = logging.getLogger(__name__)


class Sampler:
    """Rollouts from the engine that `make` makes, with the weights of the model that `whole` shows.

    `whole` is a context that every rank enters together (`training.engine.Engine.whole`). Without `repeats` a failure
    is raised at once.
    """

    def __init__(
        self,
        make: Callable[[], RolloutEngine],
        whole: Callable[[], AbstractContextManager[nn.Module]],
        repeats: bool = True,
    ):
        self._make, self._whole, self._repeats = make, whole, repeats
        self.engine = make()
        self.restarts = 0  # of this rank's engine so far

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """See `vllm.Engine.generate`. Every rank calls this together, also with nothing to ask.

        Raises `EngineLost` at the second failure.
        """
        return self._twice(lambda: self.engine.generate(requests))

    def push(self) -> None:
        """Put the trainer's weights into the engine. Returns when every rank's engine has them."""
        self._twice(self._update)

    def asleep(self) -> AbstractContextManager[None]:
        """While training runs inside this context, the engine lends it its GPU memory."""
        return self.engine.asleep()

    def _update(self) -> None:
        with self._whole() as model:
            self.engine.update_weights(merged(model))

    def _twice(self, work: Callable[[], T]) -> T:
        if not self._repeats:
            return work()
        result, first = attempt(work)
        failures = everywhere(first)
        if not failures:
            return result  # type: ignore[return-value]
        log.warning("rollouts failed (%s); the engine is made anew and the work repeated", failures)

        def again() -> T:
            self._restart()
            return work()

        result, second = attempt(again)
        if failures_again := everywhere(second):
            raise EngineLost(
                f"rollouts failed, and failed again after a restart of the engine. First: {failures}. Then: "
                f"{failures_again}. If memory was short, lower rl.rollout.max_num_seqs, rl.rollout.memory_share or "
                "frames.budget"
            )
        return result  # type: ignore[return-value]

    def _restart(self) -> None:
        self.engine.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.engine = self._make()
        self.restarts += 1
        self._update()


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What `work` returns, and how it failed (empty: it did not). What can't be done at all is raised as it is."""
    try:
        return work(), ""
    except EngineError:
        raise
    except Exception as error:
        log.exception("the rollout engine failed")
        return None, f"{type(error).__name__}: {error}"


def everywhere(failure: str) -> str:
    """The failures of all ranks in one line, with their ranks; empty when there is none."""
    failures = [failure]
    if dist.is_initialized():
        failures = [""] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
    return "; ".join(f"rank {rank}: {words[:500]}" for rank, words in enumerate(failures) if words)


def make_sampler(
    settings: RlSettings,
    folder: str,
    context: int,
    seed: int,
    student: Student,
    whole: Callable[[], AbstractContextManager[nn.Module]],
) -> Sampler:
    """The sampler of this rank, as `settings.rollout` says: an engine in this process, servers, or the reference.

    `folder` holds the weights that training starts from, `context` counts tokens of the longest prompt and response.
    """
    rollout = settings.rollout
    if engine_for(folder, rollout.engine) == "transformers":
        return Sampler(lambda: Reference(load(folder, settings.dtype, student.device)), whole)
    if not rollout.servers:
        return Sampler(
            lambda: vllm.Engine(
                folder,
                context,
                seed,
                settings.dtype,
                max_num_seqs=rollout.max_num_seqs,
                kv_cache_gib=rollout.kv_cache_gib,
                memory_share=rollout.memory_share,
                tensor_parallel=rollout.tensor_parallel,
                sleep=rollout.sleep,
            ),
            whole,
            repeats=rollout.tensor_parallel == 1,
        )
    rank, ranks = dist.get_rank(), dist.get_world_size()
    told = rollout.servers[rank::ranks]
    asked = told or rollout.servers[rank % len(rollout.servers) :][:1]
    sampler = Sampler(lambda: Servers(asked, told, student, rollout.weights_folder), whole)
    sampler.push()
    return sampler
