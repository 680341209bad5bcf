"""Rollouts: vLLM in this process, fed with cached video embeddings, its weights updated in place.

What differs from `vllm.LLM`:
1. Embeddings only: the vision tower isn't even built. Shapes are checked before vLLM sees them, because there a wrong
   one leaves the engine hanging; the time between temporal patches is always passed, because without it 1.0 s is taken.
2. Logprobs are those of the distribution a token was drawn from (`processed_logprobs`: after the temperature).
3. Every sample has its own seed, so a rollout is the same whatever else is in the batch and whatever was drawn before;
   prompts are never split over steps, which vLLM's CPU backend does not support with seeds.
4. The trainer's process is left as it was: its random state, thread settings and process groups. Under two or more
   data-parallel ranks each rank holds its own engine and generates alone; only the start is collective.
5. The trainer's `state_dict()` goes in through a backend of vLLM's weight-transfer API, and prefix, encoder and input
   caches are emptied with it.

On the CPU one thread is right: the work is many small steps, and a second thread on a busy machine makes them slower.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from longrl.errors import LongrlError
from longrl.models.chat import ChatFormat, Prompt

BLOCK = 32  # tokens in a block of the KV cache; prefixes are shared in whole blocks, and the CPU wants a multiple of 32
STEP_TOKENS = 8192  # tokens scheduled in one step, at least; more for longer contexts


class EngineError(LongrlError):
    """The rollout engine cannot do what was asked; the message says which request and why."""


@dataclass(frozen=True)
class Request:
    """One prompt to be continued `n` times. `temperature` 0 is greedy; sample i draws from `seed + i`."""

    prompt: Prompt
    video_embeds: Tensor | None = None  # (video tokens, H)
    n: int = 1
    temperature: float = 1.0
    max_tokens: int = 96
    seed: int = 0


@dataclass(frozen=True)
class Rollout:
    """One sampled response, its closing `<|im_end|>` included; `logprobs` are of the distribution it was drawn from."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: str  # "stop": ended its turn; "length": cut at max_tokens


class Engine:
    """An in-process vLLM engine for one Hugging Face folder.

    Where torch.distributed is up, every rank must make its engine at the same time (process groups are made), after
    `deepspeed.initialize`; from then on each generates by itself. `kv_cache_gib` counts on the CPU, `memory_share` on
    a GPU.
    """

    def __init__(
        self,
        folder: str | Path,
        max_model_len: int = 4096,
        seed: int = 0,
        dtype: Literal["float32", "bfloat16"] = "float32",
        max_num_seqs: int = 256,
        kv_cache_gib: int = 1,
        memory_share: float = 0.4,
        hidden_size: int | None = None,
    ):
        self.folder, self.max_model_len = Path(folder), max_model_len
        self._owns_group = not torch.distributed.is_initialized()
        with _undisturbed(), _environment(kv_cache_gib):
            from vllm import LLM

            _register_transfer()
            options: dict[str, Any] = {}
            if torch.cuda.is_available():
                options["gpu_memory_utilization"] = memory_share
                if not self._owns_group:
                    options["distributed_executor_backend"] = "external_launcher"
            else:
                options["enforce_eager"] = True
            from vllm.config import WeightTransferConfig

            self._llm: Any = LLM(
                str(folder),
                dtype=dtype,
                seed=seed,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max(STEP_TOKENS, max_model_len),
                enable_chunked_prefill=False,
                enable_prefix_caching=True,
                block_size=BLOCK,
                enable_mm_embeds=True,
                limit_mm_per_prompt={"video": 0, "image": 0},
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                disable_log_stats=True,
                weight_transfer_config=WeightTransferConfig(backend=TRANSFER),
                **options,
            )
            # Collected or at exit, vLLM would destroy the trainer's process groups; `close` does it with care.
            client: Any = self._llm.llm_engine.engine_core
            client._finalizer.detach()
            self._llm.init_weight_transfer_engine({"init_info": {}})
        self.chat = ChatFormat(self._llm.get_tokenizer())
        self._hidden = hidden_size or self._llm.llm_engine.model_config.get_hidden_size()
        self._updates = 0

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Continue all requests in one call, `n` rollouts each, in the order of requests.

        Requests may mix greedy and sampled, frame budgets and lengths. Raises `EngineError` naming the first request
        whose embeddings do not fit its grid, or that is longer than the engine's context.
        """
        if self._llm is None:
            raise EngineError("this engine is closed")
        from vllm import SamplingParams

        for number, request in enumerate(requests):
            self._check(number, request)
        params = [
            SamplingParams(
                n=request.n if request.temperature > 0 else 1,
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                seed=request.seed if request.temperature > 0 else None,
                stop_token_ids=[self.chat.end],
                logprobs=0,
                detokenize=False,
            )
            for request in requests
        ]
        try:
            with _undisturbed():
                outputs = self._llm.generate([self._input(request) for request in requests], params, use_tqdm=False)
        except BaseException:
            self.close()  # what was under way stays in vLLM's queue and would be answered to the next caller
            raise
        results = []
        for request, output in zip(requests, outputs, strict=True):
            rollouts = [self._rollout(completion) for completion in sorted(output.outputs, key=lambda c: c.index)]
            # A greedy answer is one, however often it is asked for.
            results.append(rollouts if request.temperature > 0 else rollouts * request.n)
        return results

    def update_weights(self, state: Mapping[str, Tensor]) -> None:
        """Put the trainer's weights in place and forget all that was computed with the old ones.

        `state` is the Hugging Face model's `state_dict()`; it must hold `lm_head.weight` even where it is tied to the
        embeddings, or the engine's packed head stays old. The vision tower may be left out. Raises `EngineError` when
        the head is missing.
        """
        if self._llm is None:
            raise EngineError("this engine is closed")
        if "lm_head.weight" not in state:
            raise EngineError("the weights lack lm_head.weight; pass model.state_dict(), not the saved file's tensors")
        weights = [(name, value.detach()) for name, value in state.items() if ".visual." not in name]
        self._updates += 1
        with _undisturbed(), torch.no_grad():
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

    def _check(self, number: int, request: Request) -> None:
        prompt, embeds = request.prompt, request.video_embeds
        length = len(prompt.head) + prompt.video_tokens + len(prompt.tail) + request.max_tokens
        if length > self.max_model_len:
            raise EngineError(
                f"request {number}: prompt and response take {length} tokens, the engine's context is "
                f"{self.max_model_len}; use fewer frames or a larger max_model_len"
            )
        if (prompt.grid is None) != (embeds is None):
            raise EngineError(f"request {number}: its prompt has grid {prompt.grid}, but its embeddings are {embeds}")
        if embeds is not None and tuple(embeds.shape) != (prompt.video_tokens, self._hidden):
            raise EngineError(
                f"request {number}: embeddings are {tuple(embeds.shape)}, but grid {prompt.grid} needs "
                f"{(prompt.video_tokens, self._hidden)}; the video was encoded with another frame plan or model"
            )

    @staticmethod
    def _input(request: Request) -> dict[str, Any]:
        prompt = request.prompt
        if request.video_embeds is None:
            return {"prompt_token_ids": prompt.compact}
        video = {
            "video_embeds": request.video_embeds.detach(),
            "video_grid_thw": torch.tensor([prompt.grid]),
            "second_per_grid_ts": torch.tensor([prompt.second_per_grid]),
        }
        return {"prompt_token_ids": prompt.compact, "multi_modal_data": {"video": video}}

    def _rollout(self, completion: Any) -> Rollout:
        ids = list(completion.token_ids)
        logprobs = [entry[token].logprob for entry, token in zip(completion.logprobs, ids, strict=True)]
        return Rollout(ids, logprobs, self.chat.decode(ids), completion.finish_reason)


TRANSFER = "longrl_in_process"


def _register_transfer() -> None:
    """Teach vLLM's weight-transfer API to take tensors of this process."""
    from vllm.distributed.weight_transfer import base
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader import reload

    if TRANSFER in WeightTransferEngineFactory._registry:
        return

    @dataclass
    class InitInfo(base.WeightTransferInitInfo):
        pass

    @dataclass
    class UpdateInfo(base.WeightTransferUpdateInfo):
        weights: list[tuple[str, Tensor]] = dataclasses.field(default_factory=list)

    class InProcess(base.WeightTransferEngine):
        init_info_cls, update_info_cls = InitInfo, UpdateInfo

        def init_transfer_engine(self, init_info: Any) -> None:
            pass

        def start_weight_update(self) -> None:
            reload.initialize_layerwise_reload(self.model)  # unpacks the CPU's packed weights

        def receive_weights(self, update_info: Any) -> None:
            model: Any = self.model
            model.load_weights(update_info.weights)

        def finish_weight_update(self) -> None:
            reload.finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            pass

    WeightTransferEngineFactory.register_engine(TRANSFER, InProcess)


@contextmanager
def _environment(kv_cache_gib: int) -> Iterator[None]:
    """vLLM's settings, which it reads from the environment; what it adds there for child processes is taken back."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE=str(kv_cache_gib))
    # Threads stay unbound: binding would tie the trainer, and every rank, to the same core.
    for name, value in {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }.items():
        os.environ.setdefault(name, value)
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "LOCAL_WORLD_SIZE")}
    set_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_threads  # the CPU worker replaces it by nothing
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the trainer's random state: vLLM seeds and draws from the global generators."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
