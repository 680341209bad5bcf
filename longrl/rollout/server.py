"""Rollouts from vLLM servers on GPUs of their own, started by `python -m longrl.rollout.serve`.

What differs from the engine in process:
1. Token ids and embeddings go to `/inference/v1/generate`; positions, seeds and logprobs are the same.
2. New weights go through a safetensors file in a folder that trainer and servers share, then the servers' caches are
   emptied. A server is told by one rank only.
3. The server may hold anybody's weights: the trainer must push its own before the first rollout.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
from safetensors.torch import save_file
from torch import Tensor

from longrl.models.base import Student
from longrl.models.mixed import embedded_input
from longrl.rollout.request import EngineError, EngineLost, Request, Rollout, check_head, check_requests

CONNECTIONS = 64  # requests under way to all servers together
START = "start it with `python -m longrl.rollout.serve`"


class Servers:
    """The vLLM servers a rank rolls out from; `told` are those whose weights this rank keeps up to date.

    `weights_folder` must be the same folder for the servers; `timeout` (seconds) is of one request.
    Making it waits up to `patience` seconds for the servers to come up; raises `EngineLost` if they don't.
    """

    def __init__(
        self,
        urls: Sequence[str],
        told: Sequence[str],
        student: Student,
        weights_folder: str | Path,
        timeout: float = 1800.0,
        patience: float = 300.0,
    ):
        self._urls, self._told = ([url.rstrip("/").removesuffix("/v1") for url in each] for each in (urls, told))
        self._family, self._chat, self._folder = type(student), student.chat, Path(weights_folder)
        self._width = student.width
        limits = httpx2.Limits(max_connections=CONNECTIONS)
        self._http = httpx2.Client(timeout=httpx2.Timeout(timeout, connect=10.0), limits=limits)
        self._context = min(self._wait(url, time.monotonic() + patience) for url in {*self._urls, *self._told})
        for url in self._told:
            self._post(url, "/init_weight_transfer_engine", {"init_info": {}})
        self._updates = 0
        self._table: Tensor | None = None  # token embeddings of the servers, where prompts are given in embeddings

    def generate(self, requests: Sequence[Request]) -> list[list[Rollout]]:
        """Continue all requests, dealt out to the servers in turn; see `vllm.Engine.generate`.

        Raises `EngineError` for a request that can't be done, `EngineLost` where a server is gone or failing.
        """
        check_requests(requests, self._context, self._width)
        pool = ThreadPoolExecutor(max(1, min(CONNECTIONS, len(requests))))
        try:
            return list(pool.map(self._continue, range(len(requests)), requests))
        finally:
            pool.shutdown(cancel_futures=True)

    def update_weights(self, state: Mapping[str, Tensor]) -> None:
        """Put the trainer's weights into the servers this rank tells; they forget what they computed with others."""
        check_head(state)
        if self._family.VLLM_MIXED:
            (name,) = (name for name in state if name.endswith("embed_tokens.weight"))
            self._table = state[name].detach().to("cpu", copy=True)
        if not self._told:
            return
        weights = self._family.vllm_weights(state)
        self._updates += 1
        path = self._folder / f"longrl-weights-{uuid4().hex}.safetensors"
        # A tied head shares memory with the embeddings, which the format does not allow.
        weights |= {name: value.clone() for name, value in weights.items() if name.endswith("lm_head.weight")}
        try:
            save_file({name: value.contiguous().cpu() for name, value in weights.items()}, path)
            for url in self._told:
                self._post(url, "/start_weight_update")
                self._post(url, "/update_weights", {"update_info": {"path": str(path)}})
                self._post(url, "/finish_weight_update", {"weight_version": f"update-{self._updates}"})
                if not self._post(url, "/reset_prefix_cache").json()["success"]:
                    raise EngineError(f"{url}: the prefix cache is in use; is another trainer on this server?")
                self._post(url, "/reset_encoder_cache")
                self._post(url, "/reset_mm_cache")
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Nothing to do: the servers' memory is not the trainer's."""
        yield

    def close(self) -> None:
        """Close the connections; the servers go on."""
        self._http.close()

    def _continue(self, number: int, request: Request) -> list[Rollout]:
        prompt, sampled = request.prompt, request.temperature > 0
        sampling: dict[str, Any] = {
            "n": request.n if sampled else 1,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed if sampled else None,
            "stop_token_ids": [self._chat.end],
            "logprobs": 0,
        }
        if self._family.VLLM_MIXED and prompt.media:
            if self._table is None:
                raise EngineError("push weights before the first rollout: these prompts are made of embeddings")
            path, body = "/v1/completions", embedded_input(prompt, request.embeds, self._table)
            body |= sampling | {"add_special_tokens": False, "return_token_ids": True}
        else:
            path, body = "/inference/v1/generate", {"token_ids": prompt.expanded}
            body |= {"sampling_params": sampling | {"detokenize": False}}
            if features := self._family.vllm_features(prompt, request.embeds):
                body["features"] = features
        answer = self._post(self._urls[number % len(self._urls)], path, body).json()
        rollouts = [self._rollout(choice) for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]
        return rollouts if sampled else rollouts * request.n

    def _rollout(self, choice: dict[str, Any]) -> Rollout:
        ids, found = choice["token_ids"], choice["logprobs"]
        logprobs = found["token_logprobs"] if "content" not in found else [e["logprob"] for e in found["content"]]
        return Rollout(ids, logprobs, self._chat.decode(ids), choice["finish_reason"])

    def _post(self, url: str, path: str, body: Any = None) -> httpx2.Response:
        try:
            answer = self._http.post(url + path, json=body)
        except httpx2.TransportError as error:
            raise EngineLost(f"the rollout server {url} can't be reached ({error!r}); {START}") from error
        if answer.status_code in (403, 404):
            raise EngineError(f"the rollout server {url} has no {path}; {START}")
        if answer.is_client_error:
            raise EngineError(f"the rollout server {url} refuses {path}: {answer.text[:500]}")
        if answer.is_server_error:
            raise EngineLost(f"the rollout server {url} failed at {path}: {answer.text[:500]}; see its log")
        return answer

    def _wait(self, url: str, deadline: float) -> int:
        """Wait until the server is up; returns the longest context of its model, in tokens."""
        while True:
            try:
                if self._http.get(url + "/health").is_success:
                    return int(self._http.get(url + "/v1/models").json()["data"][0]["max_model_len"])
                why = "it is up but not healthy"
            except httpx2.TransportError as error:
                why = repr(error)
            if time.monotonic() > deadline:
                raise EngineLost(f"the rollout server {url} does not come up ({why}); {START}")
            time.sleep(1.0)
