"""The metrics of an RL step, over all ranks: a line of `metrics.jsonl`.

    reward, rewards        mean total, and of each reward, over the responses it applies to
    accuracy, format       as evaluation counts them, over the responses they apply to, whatever is rewarded
    response_length        mean, in tokens
    truncated ...          responses cut at the limit; masked, penalised: what was done with them (rl.truncated)
    unjudged, not_finite   responses without a judgement; groups with a NaN or infinite reward, left out
    zero_variance_groups   groups whose rewards are equal; refills: extra rounds for them; prompts: questions asked
    groups                 groups in the loss
    loss, entropy, kl ...  means over what was computed: loss as the algorithm weighs it, the others over tokens
    clip_fraction          share of tokens whose ratio was clipped
    importance_weight      mean truncated ratio of the trainer's to the sampler's probability
    parity_gap, ..._mean   |trainer - vLLM| logprob of the tokens computed, in nats
    gradient_norm          mean over the step's updates, before clipping; updates: how many there were
    skipped                updates left out so far for a number that is not finite
    engine_restarts        times the rollout engine was made anew so far
    cache_hits, _encodes   embeddings read from the cache, and videos encoded, since this process started
    tokens_per_second      tokens of prompts (once a group) and responses rolled out, by the seconds of the step
    seconds, seconds_*     of rank 0: encode (embeddings; in the first step of all videos), rollout, reward, logprob
                           (old and reference), forward, backward, update (optimizer), sync (weights to vLLM), other
    memory_mib, cuda_mib   largest resident memory of a process, and on its GPU, so far

What was not measured, for want of a token or of a GPU, is null.
"""

from __future__ import annotations

import math
import resource
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from longrl.rollout import parity
from longrl.training.rewards import Judged
from longrl.training.rl_rollout import Batch, gathered
from longrl.training.rl_update import Sums

SPANS = ("encode", "rollout", "reward", "logprob", "forward", "backward", "update", "sync", "other")


def row(batch: Batch, sums: Sums, clock: dict[str, float], cache: Mapping[str, float]) -> dict[str, Any]:
    """The step's metrics, the same on every rank but for the seconds; every rank calls it.

    `clock` holds this rank's seconds by name and `cache` the numbers of its embedding cache.
    """
    everyone = gathered({**counts(batch, sums), **cache})
    total: dict[str, float] = defaultdict(float)
    for part in everyone:
        for name, value in part.items():
            total[name] += value
    seconds = sum(clock.values())
    gaps = [part["gap_largest"] for part in everyone if part["gap_tokens"]]
    named = sorted(name.removeprefix("reward ") for name in total if name.startswith("reward "))
    return {
        "reward": ratio(total["reward"], total["rewarded"]),
        "rewards": {name: ratio(total[f"reward {name}"], total[f"rewarded {name}"]) for name in named},
        "accuracy": ratio(total["accuracy"], total["choices"]),
        "format": ratio(total["format"], total["responses"]),
        "response_length": ratio(total["response_tokens"], total["responses"]),
        "prompts": batch.prompts,
        "groups": int(total["chosen"]),
        "zero_variance_groups": batch.equal,
        "not_finite_groups": batch.not_finite,
        "refills": batch.refills,
        **{name: int(total[name]) for name in ("truncated", "masked", "penalised", "unjudged")},
        "loss": ratio(total["loss"], total["size"] if total["tokens"] else 0.0),
        "entropy": ratio(total["entropy"], total["tokens"]),
        "kl": ratio(total["kl"], total["kl_tokens"]),
        "clip_fraction": ratio(total["clipped"], total["tokens"]),
        "importance_weight": ratio(total["weight"], total["tokens"]),
        "parity_gap": max(gaps, default=None),
        "parity_gap_mean": ratio(total["gap_sum"], total["gap_tokens"]),
        "updates": len(sums.norms),
        "gradient_norm": ratio(sum(sums.norms), len(sums.norms)),
        "cache_hits": int(total["hits"]),
        "cache_encodes": int(total["encoded"]),
        "tokens_per_second": ratio(total["prompt_tokens"] + total["response_tokens"], seconds),
        **{f"seconds_{name}": clock.get(name, 0.0) for name in SPANS},
        "seconds": seconds,
        "memory_mib": max(part["memory"] for part in everyone),
        "cuda_mib": max((part["cuda"] for part in everyone if "cuda" in part), default=None),
    }


def counts(batch: Batch, sums: Sums) -> dict[str, float]:
    """This rank's numbers."""
    judged = [one for sample in batch.groups for one in sample.judged]
    rollouts = [rollout for sample in batch.groups for rollout in sample.rollouts]
    prompts = [sample.request.prompt for sample in batch.groups]
    return {
        **earned(judged),
        "responses": len(rollouts),
        "response_tokens": sum(len(rollout.token_ids) for rollout in rollouts),
        "prompt_tokens": sum(map(len, prompts)),
        "truncated": sum(rollout.finish != "stop" for rollout in rollouts),
        "chosen": len(batch.chosen),
        "loss": sums.loss,
        "size": sums.size,
        "kl": sums.kl,
        "kl_tokens": sums.kl_tokens,
        "entropy": sums.entropy,
        "clipped": sums.clipped,
        "weight": sums.weight,
        "tokens": sums.tokens,
        **gap(batch),
        **memory(),
    }


def earned(judged: list[Judged]) -> dict[str, float]:
    """Sums of what responses earned, and how many earned it."""
    sums: dict[str, float] = defaultdict(float)
    for one in judged:
        sums[one.outcome] += 1
        sums["format"] += one.well_formed
        if one.accuracy is not None:
            sums["accuracy"] += one.accuracy
            sums["choices"] += 1
        for name, value in (one.parts | {"": one.total}).items():
            if value is not None and math.isfinite(value):
                sums[f"reward {name}".strip()] += value
                sums[f"rewarded {name}".strip()] += 1
    return dict(sums)


def gap(batch: Batch) -> dict[str, float]:
    """|trainer - vLLM| of this rank's computed tokens."""
    computed = [sample for sample in batch.chosen if any(len(row) for row in sample.logprobs)]
    if not computed:
        return {"gap_largest": 0.0, "gap_sum": 0.0, "gap_tokens": 0}
    found = parity.measure(
        [sample.question_id for sample in computed],
        [sample.kept for sample in computed],
        [sample.logprobs for sample in computed],
    )
    return {"gap_largest": found.largest, "gap_sum": found.mean * found.tokens, "gap_tokens": found.tokens}


def memory() -> dict[str, float]:
    """Largest memory of this process so far, in MiB."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cuda = {"cuda": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {}
    return {"memory": resident, **cuda}


def ratio(value: float, count: float) -> float | None:
    """A mean, or None of nothing."""
    return value / count if count else None
