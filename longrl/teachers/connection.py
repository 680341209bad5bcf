"""The way to an OpenAI-compatible server (vLLM, DeepSeek, OpenAI, ...): many requests in flight, and one clear error.

How it differs from the client's own retries: what may pass (429, 5xx, a timeout, a lost connection) is retried with
jittered back-off or after the time the server asks for; what will not pass (400, 401, 403, 404) is never sent twice.
A failure that outlives its retries is the *item's* (`TeacherError`, and the others go on) when the server answered
others in the meantime or answers a short question now, else the *server's* (`TeacherUnavailable`, one clear error).

What is asked is its subclasses' matter: chat completions (`longrl.teachers.server`), the same by files of requests
(`longrl.teachers.batch`), embeddings (`longrl.data.duplicates`).

The key is read from the environment, sent, and taken out of every message before anybody sees it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import httpx2
import openai

from longrl.config import TeacherServer
from longrl.limits import LIMITS
from longrl.teachers.base import TeacherError, TeacherUnavailable, TeacherUnreachable
from longrl.teachers.faults import first, may_pass, remedy, told, waiting_time

Item = TypeVar("Item")
Done = TypeVar("Done")

LONGEST_BODY = 256 * 1024  # bytes of an answer's body, beside
LONGEST_TOKEN = 64  # bytes for each of its `max_tokens`
USUAL_CONTEXT = 32768  # tokens, of a server that does not tell its model's context
UNFIT = (openai.BadRequestError, openai.UnprocessableEntityError)  # 400 and 422: it is the request that is refused

log = logging.getLogger(__name__)


class AnswerTooLong(openai.OpenAIError):
    """The server sends more than an answer of `max_tokens` can be; the rest is not read."""


class Bounded(httpx2.AsyncByteStream):
    """A response's body that ends in `AnswerTooLong` after `limit` bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int):
        self._stream, self._limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._limit:
                raise AnswerTooLong(f"the server sent more than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


END = object()


class Feed:
    """Items taken one at a time from an iterator that may block, without blocking the event loop."""

    def __init__(self, items: Iterable[Any]):
        self._items = iter(items)
        self._turn = asyncio.Lock()

    async def take(self) -> Any:
        """The next item, or END."""
        async with self._turn:
            return await asyncio.to_thread(next, self._items, END)


class Connection:
    """Error messages point to the server `field` in this `section` of the configuration (caption, reason)."""

    def __init__(self, settings: TeacherServer, section: str, field: str = "server"):
        self.settings, self.section, self.where = settings, section, f"{section}.{field}"
        self._key = os.environ.get(settings.api_key_env, "").strip()
        self._model = settings.model
        self._context = settings.context
        self._answered = 0
        self._client: openai.AsyncOpenAI
        self._slots: asyncio.Semaphore

    @property
    def url(self) -> str:
        return self.settings.base_url

    @property
    def model(self) -> str:
        """The model's name; without one in the settings the server is asked for its first."""
        if not self._model:
            self._ask_models()
        return self._model

    @property
    def context(self) -> int:
        """The model's context in tokens, prompt and answer together."""
        if not self._context:
            self._ask_models()
        return self._context

    def run(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Awaitable[Done]],
        on_done: Callable[[Item, Done | TeacherError], None],
    ) -> None:
        """Do `work` on all items, as many at once as `concurrency`, reporting each one the moment it is finished.

        `items` may block while it makes the next one. `work` asks the server; its `TeacherError` is the item's outcome.
        Raises `TeacherUnavailable` as soon as one item finds the server out of reach; what was reported before stays
        done.
        """
        asyncio.run(self._run(Feed(items), work, on_done))

    async def _run(self, feed, work, on_done) -> None:
        async def worker() -> None:
            while (item := await feed.take()) is not END:
                on_done(item, await outcome(work, item))

        self._slots = asyncio.Semaphore(self.settings.concurrency)
        await self._together([worker] * self.settings.concurrency)

    async def _together(self, workers: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run all workers with a client that is closed after them; the first error ends the others and is raised."""
        async with self._connect() as self._client:
            try:
                async with asyncio.TaskGroup() as group:
                    for worker in workers:
                        group.create_task(worker())
            except BaseExceptionGroup as failures:
                raise first(failures) from None

    def _connect(self) -> openai.AsyncOpenAI:
        async def bound(response: httpx2.Response) -> None:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = Bounded(response.stream, self._longest_body)

        return openai.AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=self._key or "none",  # a server of one's own asks for none, the client insists on one
            max_retries=0,
            timeout=self.settings.timeout,
            default_headers={"accept-encoding": "identity"},  # so that the bytes counted are the bytes kept
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [bound]}),
        )

    @property
    def _longest_body(self) -> int:
        return LONGEST_BODY + LONGEST_TOKEN * self.settings.max_tokens

    def _ask_models(self) -> None:
        """Learn the model's name and context; raises `TeacherUnavailable` when the server does not tell."""

        def on_done(_: None, error: TeacherError | None) -> None:
            if error is not None:
                raise TeacherUnavailable(
                    f"{self.url}/models is of no use ({error}); set {self.where}.model and context"
                )

        asyncio.run(Connection._run(self, Feed([None]), lambda _: self._read_models(), on_done))

    async def _read_models(self) -> None:
        """The model's name and context, from the settings or else as the server lists them."""
        page = await self._send(lambda: self._client.models.list())
        models = {model.id: model for model in getattr(page, "data", None) or []}
        if not models and not self._model:
            raise TeacherUnavailable(f"{self.url}/models lists no model; set {self.where}.model")
        self._model = self._model or next(iter(models))
        length = getattr(models.get(self._model), "max_model_len", None)
        self._context = self._context or (length if isinstance(length, int) and length > 0 else USUAL_CONTEXT)

    async def _send(self, call: Callable[[], Any]) -> Any:
        """Await `call()`, again after what may pass; raises `TeacherError` or `TeacherUnavailable`."""
        try:
            return await self._try(call)
        except UNFIT as error:
            raise self._unavailable(error) from None

    async def _try(self, call: Callable[[], Any]) -> Any:
        """As `_send`, but a request that the server refuses (`UNFIT`) is the caller's to judge."""
        attempts = self.settings.retries + 1
        answered_before = self._answered
        for attempt in range(1, attempts + 1):
            try:
                async with self._slots:
                    await LIMITS.get().calling()
                    async with asyncio.timeout(self.settings.timeout):
                        return await call()
            except UNFIT:
                raise
            except AnswerTooLong as error:
                raise TeacherError(f"{error}, far more than max_tokens {self.settings.max_tokens} can be") from None
            except (openai.APIError, TimeoutError, ValueError) as error:
                if not may_pass(error):
                    raise self._unavailable(error) from None
                if attempt == attempts:
                    overloaded = isinstance(error, openai.RateLimitError)
                    if not overloaded and (self._answered > answered_before or await self._alive()):
                        raise TeacherError(f"{self.clean(error)}, {attempts} times") from None
                    raise self._unavailable(error, attempts) from None
                wait = waiting_time(error, attempt)
                log.warning(
                    "%s: %s; retry %d of %d in %.1f s", self.url, self.clean(error), attempt, attempts - 1, wait
                )
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _alive(self) -> bool:
        """Whether the server answers a short question just now; False where it cannot be asked one."""
        return False

    def _not_a_server(self) -> TeacherUnavailable:
        return TeacherUnavailable(
            f"{self.url} does not answer like an OpenAI-compatible server; "
            f"check {self.where}.base_url (it usually ends in /v1)"
        )

    def _unavailable(self, error: Exception, attempts: int = 1) -> TeacherUnavailable:
        """The one clear error: which server, what happened, what to do."""
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        what_to_do = remedy(error, self.settings, self.where, self._model, bool(self._key))
        kind = TeacherUnreachable if may_pass(error) else TeacherUnavailable
        return kind(
            f"the teacher's server {self.url} is of no use: {self.clean(error)}{times}. "
            f"To go on, {what_to_do}, and run again; what is finished is kept."
        )

    def clean(self, error: Exception) -> str:
        """The error in a few words, without the key."""
        return self._storable(told(error, self.settings))[:500]

    def _storable(self, text: str) -> str:
        """The text without the key, and without halves of surrogate pairs, which cannot be stored."""
        return (text.replace(self._key, "***") if self._key else text).encode("utf-8", "replace").decode()


async def outcome(work: Callable[[Any], Awaitable[Any]], item: Any) -> Any:
    """What `work` makes of an item, or the `TeacherError` that is its outcome."""
    try:
        return await work(item)
    except TeacherError as error:
        return error
