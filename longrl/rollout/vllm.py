"""Rollouts: vLLM in this process, fed with cached video embeddings, its weights updated in place.

What differs from `vllm.LLM`:
1. Embeddings only: the vision tower isn't even built. Shapes are checked before vLLM sees them, because there a wrong
   one leaves the engine hanging; the time between temporal patches is always passed, because without it 1.0 s is taken,
   and is part of the name under which vLLM shares a video's prefill.
2. Logprobs are those of the distribution a token was drawn from (`processed_logprobs`: after the temperature).
3. Every sample has its own seed, so a rollout is the same whatever else is in the batch and whatever was drawn before;
   prompts are never split over steps, which vLLM's CPU backend does not support with seeds.
4. The trainer's process is left as it was: its random state, thread settings and process groups. Under two or more
   data-parallel ranks each rank holds its own engine and generates alone; only the start is collective. With
   `tensor_parallel` T, T neighbouring ranks hold one engine's shards and generate together.
5. The trainer's `state_dict()` goes in through a backend of vLLM's weight-transfer API, and prefix, encoder and input
   caches are emptied with it.

On the CPU one thread is right: the work is many small steps, and a second thread on a busy machine makes them slower.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from longrl.models.base import Student
from longrl.models.families import family_class
from longrl.mrsp.costs import BLOCK
from longrl.rollout import cpu_kernels
from longrl.rollout.guest import environment, undisturbed
from longrl.rollout.request import EngineError, Request, Rollout, check_head, check_requests

STEP_TOKENS = 8192  # tokens scheduled in one step, at least; more for longer contexts


def model_options(max_model_len: int, family: type[Student]) -> dict[str, Any]:
    """vLLM's arguments without which its rollouts would not be the trainer's; a server needs the same."""
    return {
        "max_model_len": max_model_len,
        "max_num_batched_tokens": max(STEP_TOKENS, max_model_len),
        "enable_chunked_prefill": False,
        "enable_prefix_caching": True,
        "block_size": BLOCK,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "enforce_eager": not torch.cuda.is_available(),
        **family.vllm_options(),
    }


class Engine:
    """An in-process vLLM engine for one Hugging Face folder.

    Where torch.distributed is up, every rank must make its engine at the same time (process groups are made), after
    `deepspeed.initialize`; from then on each generates by itself, or, with `tensor_parallel` above 1, each T neighbours
    together. `kv_cache_gib` counts on the CPU; `memory_share` and `sleep` on a GPU.
    """

    def __init__(
        self,
        folder: str | Path,
        max_model_len: int = 4096,
        seed: int = 0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        max_num_seqs: int = 256,
        kv_cache_gib: float = 1.0,
        memory_share: float = 0.4,
        tensor_parallel: int = 1,
        sleep: bool = False,
    ):
        self.folder, self.max_model_len = Path(folder), max_model_len
        self._owns_group = not dist.is_initialized()
        gpu = torch.cuda.is_available()
        self._sleeps, self._shards = sleep and gpu, tensor_parallel
        if tensor_parallel > 1 and (self._owns_group or dist.get_world_size() % tensor_parallel):
            raise EngineError(f"tensor_parallel is {tensor_parallel}, which must divide the number of ranks")
        options: dict[str, Any] = {"enable_sleep_mode": self._sleeps}
        if gpu:
            options["gpu_memory_utilization"] = memory_share
        else:
            options["kv_cache_memory_bytes"] = int(kv_cache_gib * 2**30)
        if not self._owns_group and (gpu or tensor_parallel > 1):
            options["distributed_executor_backend"] = "external_launcher"
        self._family = family_class(folder)
        with undisturbed(), environment():
            from vllm import LLM
            from vllm.config import WeightTransferConfig

            from longrl.rollout.transfer import IN_PROCESS

            self._family.vllm_prepare()
            if not gpu:
                cpu_kernels.register()
                options |= cpu_kernels.PREFERRED
            self._llm: Any = LLM(
                str(self.folder / self._family.VLLM_FOLDER),
                dtype=dtype,
                seed=seed,
                max_num_seqs=max_num_seqs,
                tensor_parallel_size=tensor_parallel,
                disable_log_stats=True,
                weight_transfer_config=WeightTransferConfig(backend=IN_PROCESS),
                **model_options(max_model_len, self._family),
                **options,
            )
            # Collected or at exit, vLLM would destroy the trainer's process groups; `close` does it with care.
            client: Any = self._llm.llm_engine.engine_core
            client._finalizer.detach()
            self._llm.init_weight_transfer_engine({"init_info": {}})
        self.chat = self._family.CHAT(self._llm.get_tokenizer())
        self._width = self._family.embedding_width(self._llm.llm_engine.model_config.hf_config)
        self._updates = self._requests = 0

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Continue all requests in one call, `n` rollouts each, in the order of requests.

        Requests may mix greedy and sampled, frame budgets and lengths. Raises `EngineError` naming the first request
        whose embeddings do not fit its grid, or that is longer than the engine's context. After any other exception
        the engine is closed. The ranks of a tensor-parallel engine call this together, each with its own requests.
        """
        if self._llm is None:
            raise EngineError("this engine is closed")
        first, everyones = self._shared(requests)
        if not everyones:
            return []
        check_requests(everyones, self.max_model_len, self._width)
        try:
            with undisturbed():
                inputs = [self._family.vllm_input(request.prompt, request.embeds) for request in everyones]
                sampling = [self._sampling(request) for request in everyones]
                if "type" in inputs[0]:
                    outputs = self._run(inputs, sampling)
                else:
                    outputs = self._llm.generate(inputs, sampling, use_tqdm=False)
        except BaseException:
            self.close()  # what was under way stays in vLLM's queue and would be answered to the next caller
            raise
        results = []
        for request, output in zip(requests, outputs[first : first + len(requests)], strict=True):
            rollouts = [self._rollout(completion) for completion in sorted(output.outputs, key=lambda c: c.index)]
            # A greedy answer is one, however often it is asked for.
            results.append(rollouts if request.temperature > 0 else rollouts * request.n)
        return results

    def update_weights(self, state: Mapping[str, Tensor]) -> None:
        """Put the trainer's weights in place and forget all that was computed with the old ones.

        `state` is the Hugging Face model's `state_dict()`, or `longrl.models.lora.merged` of it; the vision tower may
        be left out. Raises `EngineError` when the head is missing.
        """
        if self._llm is None:
            raise EngineError("this engine is closed")
        check_head(state)
        # One at a time: weights with LoRA's updates in them are made as they are asked for.
        weights = (item for name in state for item in self._family.vllm_weights({name: state[name]}).items())
        self._updates += 1
        with undisturbed(), torch.no_grad():
            self._llm.start_weight_update()
            self._llm.update_weights({"update_info": {"weights": weights}})
            self._llm.finish_weight_update(weight_version=f"update-{self._updates}")
        self.reset_caches()

    def reset_caches(self) -> None:
        """Forget prefixes, encoder outputs and inputs."""
        if not self._llm.reset_prefix_cache():
            raise EngineError("the prefix cache is in use; update weights only between calls of generate")
        self._llm.llm_engine.reset_encoder_cache()
        self._llm.reset_mm_cache()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Lend the GPU's memory to training: weights go to the host, the KV cache is dropped.

        Nothing happens without `sleep=True`, nor on the CPU, where vLLM cannot sleep and there is nothing to lend.
        """
        if self._sleeps:
            self._llm.sleep(level=1)
        yield
        if self._sleeps:
            self._llm.wake_up()

    def close(self) -> None:
        """Free weights, KV cache and vLLM's process groups; those of the trainer stay."""
        if self._llm is None:
            return
        from vllm.distributed import parallel_state

        core = self._llm.llm_engine.engine_core.engine_core
        core.structured_output_manager.clear_backend()
        core.model_executor.shutdown()
        core.scheduler.shutdown()
        self._llm = None
        gc.unfreeze()
        parallel_state.destroy_model_parallel()
        if self._owns_group:
            parallel_state.destroy_distributed_environment()
        elif parallel_state._WORLD is not None:
            parallel_state._WORLD.destroy()
            parallel_state._WORLD = None
        gc.collect()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shared(self, requests: Sequence[Request]) -> tuple[int, list[Request]]:
        """The requests of all ranks that hold a shard of this engine, and where this rank's own begin."""
        if self._shards == 1:
            return 0, list(requests)
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        here = [dataclasses.replace(r, embeds=tuple(each.detach().cpu() for each in r.embeds)) for r in requests]
        everyone: list[list[Request]] = [[]] * self._shards
        dist.all_gather_object(everyone, here, group=group.cpu_group)
        return sum(map(len, everyone[: group.rank_in_group])), [request for part in everyone for request in part]

    def _run(self, inputs: Sequence[dict[str, Any]], sampling: Sequence[Any]) -> list[Any]:
        """`LLM.generate` for inputs that are past vLLM's processor of the family already."""
        from vllm.sampling_params import RequestOutputKind

        engine, done = self._llm.llm_engine, dict[str, Any]()
        self._requests += len(inputs)
        names = [f"past-{self._requests - len(inputs) + number}" for number in range(len(inputs))]
        for name, each, how in zip(names, inputs, sampling, strict=True):
            how.output_kind = RequestOutputKind.FINAL_ONLY
            engine.add_request(name, each, how)
        while engine.has_unfinished_requests():
            done |= {output.request_id: output for output in engine.step() if output.finished}
        return [done[name] for name in names]

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams

        sampled = request.temperature > 0
        return SamplingParams(
            n=request.n if sampled else 1,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=request.seed if sampled else None,
            stop_token_ids=[self.chat.end],
            logprobs=0,
            detokenize=False,
        )

    def _rollout(self, completion: Any) -> Rollout:
        ids = list(completion.token_ids)
        logprobs = [entry[token].logprob for entry, token in zip(completion.logprobs, ids, strict=True)]
        return Rollout(ids, logprobs, self.chat.decode(ids), completion.finish_reason)
