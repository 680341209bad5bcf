"""One OpenAI-compatible server (vLLM, DeepSeek, OpenAI, ...): many requests in flight, and an account of every failure.

How it differs from the client's own retries: what may pass (429, 5xx, a timeout, a lost connection) is retried with
jittered back-off or after the time the server asks for; what will not pass (400, 401, 403, 404) is never sent twice.
A failure that outlives its retries is the *item's* (`TeacherError`, and the others go on) when the server answered
others in the meantime or answers a short question now, else the *server's* (`TeacherUnavailable`, one clear error).

Servers speak dialects: some know no JSON schema, some want `max_completion_tokens`, some fix the temperature. A 400
that names such a parameter changes the dialect once for all following requests.

The key is read from the environment, sent, and taken out of every message before anybody sees it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
from pydantic import BaseModel, Field, ValidationError

from longrl.config import TeacherServer
from longrl.errors import LongrlError
from longrl.teachers.base import TeacherError, TeacherUnavailable, TeacherUnreachable
from longrl.teachers.calls import Call, without_pictures

Item = TypeVar("Item")
Done = TypeVar("Done")

FIRST_WAIT = 0.5  # seconds before the first retry, doubled for each one after it
LONGEST_WAIT = 30.0  # seconds; a server that names a longer time is believed up to LONGEST_RETRY_AFTER
LONGEST_RETRY_AFTER = 600.0
LONGEST_BODY = 256 * 1024  # bytes of an answer's body, beside
LONGEST_TOKEN = 64  # bytes for each of its `max_tokens`
USUAL_CONTEXT = 32768  # tokens, of a server that does not tell its model's context
REFUSALS = 3  # so many requests refused with 400 before any was answered mean that the server refuses them all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dialect:
    """Which optional parameters the server understands."""

    json_schema: bool = True
    tokens_field: str = "max_tokens"
    temperature: bool = True

    def after(self, complaint: str) -> Dialect:
        """The dialect to try after a 400 with this message; the same one when the message names none of this.

        >>> Dialect().after("This response_format type is unavailable now").json_schema
        False
        """
        if re.search(r"response_format|json_schema|structured output", complaint, re.IGNORECASE):
            return replace(self, json_schema=False)
        if "max_completion_tokens" in complaint:
            return replace(self, tokens_field="max_completion_tokens")
        if re.search(r"temperature.*(support|only the default)|support.*temperature", complaint, re.IGNORECASE):
            return replace(self, temperature=False)
        return self


class Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    message: Message
    finish_reason: str | None = None


class Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    """What is read of a chat completion; other fields are ignored."""

    choices: list[Choice] = Field(min_length=1)
    usage: Usage | None = None


@dataclass
class Exchange:
    """A request under way: what is sent (see `without_pictures`), attempts made so far, the answer once it is there."""

    sent: tuple[str, int, str]
    attempts: int = 0
    completion: Completion | None = None


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


def ignore(call: Call) -> None:
    """Keep no account of a call."""


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


class Server:
    """`section` is the part of the configuration (caption, reason) that error messages point to."""

    def __init__(self, settings: TeacherServer, section: str):
        self.settings, self.section = settings, section
        self._key = os.environ.get(settings.api_key_env, "").strip()
        self._model = settings.model
        self._context = settings.context
        self._dialect = Dialect()
        self._answered = 0
        self._refused = 0
        self._on_call: Callable[[Call], None] = ignore
        self._client: openai.AsyncOpenAI
        self._slots: asyncio.Semaphore

    @staticmethod
    def of(settings: TeacherServer, section: str, batches: Path | None = None) -> Server:
        """The server asked request by request, or with `batches`, a folder, by files of requests."""
        if batches is None:
            return Server(settings, section)
        from longrl.teachers.batch import BatchServer

        return BatchServer(settings, section, batches)

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
        on_call: Callable[[Call], None] = ignore,
    ) -> None:
        """Do `work` on all items, as many at once as `concurrency`, reporting each one the moment it is finished.

        `items` may block while it makes the next one. `work` calls `complete`; its `TeacherError` is the item's
        outcome, and every request is told to `on_call`. Raises `TeacherUnavailable` as soon as one item finds the
        server out of reach; what was reported before stays done.
        """
        self._on_call = on_call
        asyncio.run(self._run(Feed(items), work, on_done))

    async def _run(self, feed, work, on_done) -> None:
        async def worker() -> None:
            while (item := await feed.take()) is not END:
                try:
                    done = await work(item)
                except TeacherError as error:
                    done = error
                on_done(item, done)

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

    async def complete(
        self, messages: list[dict[str, Any]], schema: dict[str, Any] | None = None, item: str = "", category: str = ""
    ) -> str:
        """The answer's text; with `schema` it is JSON that should follow it (check it: not every server does).

        The call is told to `on_call` under `item` and `category`, however it ends. Raises `TeacherError` when this
        request is refused, cut off, or answered with nothing or in another language, and `TeacherUnavailable` when the
        server serves nobody.
        """
        started = time.monotonic()
        exchange = Exchange(without_pictures(messages))
        trouble = "called off"
        try:
            exchange.completion = await self._answer(messages, schema, exchange)
            text = self._text(exchange.completion)
            trouble = ""
            return text
        except LongrlError as error:
            trouble = self._storable(str(error))
            raise
        finally:
            if exchange.attempts:
                self._on_call(self._account(exchange, item, category, time.monotonic() - started, trouble))

    def _account(self, exchange: Exchange, item: str, category: str, seconds: float, error: str) -> Call:
        prompt, images, digest = exchange.sent
        completion = exchange.completion
        usage = completion.usage if completion else None
        sent, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        cost = None
        if usage:
            cost = ((sent or 0) * self.settings.price_input + (written or 0) * self.settings.price_output) / 1e6
        said = completion.choices[0].message if completion else Message()
        return Call(
            item=item,
            category=category,
            model=self._model,
            prompt_tokens=sent,
            completion_tokens=written,
            cost=cost,
            seconds=round(seconds, 3),
            attempts=exchange.attempts,
            images=images,
            images_sha256=digest,
            prompt=prompt,
            response=self._storable(said.content or said.refusal or ""),
            finish=(completion.choices[0].finish_reason or "stop") if completion else "error",
            error=error,
        )

    async def _answer(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None, exchange: Exchange) -> Any:
        """The server's answer to one request."""
        dialect = self._dialect

        async def create() -> Completion:
            nonlocal dialect
            dialect = self._dialect  # at the time of sending: others may have learned while this one waited
            exchange.attempts += 1
            body = self._body(dialect, messages, schema)
            return self._read(await self._client.chat.completions.with_raw_response.create(**body))

        while True:
            try:
                completion = await self._send(create)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if dialect != self._dialect:  # another request has learned it meanwhile
                    continue
                self._dialect = dialect.after(error.message)
                if dialect != self._dialect:
                    log.warning("%s does not take all parameters (%s); going on without", self.url, self.clean(error))
                    continue
                raise self._refusal(error) from None
            self._answered += 1
            return completion

    def _body(self, dialect: Dialect, messages: Any, schema: dict[str, Any] | None) -> dict[str, Any]:
        """A request in the server's dialect."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            dialect.tokens_field: self.settings.max_tokens,
        }
        if dialect.temperature:
            body["temperature"] = self.settings.temperature
        if schema is not None:
            strict = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
            body["response_format"] = strict if dialect.json_schema else {"type": "json_object"}
        return body

    def _read(self, response: Any) -> Completion:
        """A response's completion; raises `ValueError` when half of it is missing, which may pass."""
        if "json" not in response.headers.get("content-type", ""):
            raise self._not_a_server()
        return self._completion(json.loads(response.text))

    def _completion(self, value: Any) -> Completion:
        try:
            return Completion.model_validate(value)
        except ValidationError as error:
            if not self._answered:
                raise self._not_a_server() from None
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise TeacherError(f"the server's answer is no chat completion ({where}: {fault['msg']})") from None

    def _not_a_server(self) -> TeacherUnavailable:
        return TeacherUnavailable(
            f"{self.url} does not answer like an OpenAI-compatible server; "
            f"check {self.section}.server.base_url (it usually ends in /v1)"
        )

    def _ask_models(self) -> None:
        asyncio.run(Server._run(self, Feed([None]), lambda _: self._first_model(), lambda _, name: None))

    async def _first_model(self) -> str:
        """The model's name and context, from the settings or else as the server lists them."""
        page = await self._send(lambda: self._client.models.list())
        models = {model.id: model for model in getattr(page, "data", None) or []}
        if not models and not self._model:
            raise TeacherUnavailable(f"{self.url}/models lists no model; set {self.section}.server.model")
        self._model = self._model or next(iter(models))
        told = getattr(models.get(self._model), "max_model_len", None)
        self._context = self._context or (told if isinstance(told, int) and told > 0 else USUAL_CONTEXT)
        return self._model

    async def _send(self, call: Callable[[], Any]) -> Any:
        """Await `call()`, again after what may pass; 400 and 422 are the caller's to judge."""
        attempts = self.settings.retries + 1
        answered_before = self._answered
        for attempt in range(1, attempts + 1):
            try:
                async with self._slots, asyncio.timeout(self.settings.timeout):
                    return await call()
            except (openai.BadRequestError, openai.UnprocessableEntityError):
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
        """Whether the server answers a short question just now."""
        tokens = {self._dialect.tokens_field: 16}
        question = [{"role": "user", "content": "Say yes."}]
        try:
            async with self._slots, asyncio.timeout(self.settings.timeout):
                await self._client.chat.completions.create(model=self._model, messages=question, **tokens)  # type: ignore
        except (openai.APIError, TimeoutError, ValueError):
            return False
        return True

    def _text(self, completion: Completion) -> str:
        choice = completion.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            raise TeacherError(f"the model refused: {self._storable(choice.message.refusal or 'content filter')[:300]}")
        if choice.finish_reason == "length":
            raise TeacherError(
                f"the answer was cut off at {self.settings.max_tokens} tokens; raise {self.section}.server.max_tokens"
            )
        text = re.sub(r"^\s*<think>.*?</think>", "", choice.message.content or "", flags=re.DOTALL).strip()
        text = self._storable(text)
        if not text:
            raise TeacherError("the model gave an empty answer")
        return text

    def _storable(self, text: str) -> str:
        """The text without the key, and without halves of surrogate pairs, which cannot be stored."""
        return (text.replace(self._key, "***") if self._key else text).encode("utf-8", "replace").decode()

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """A 400: this item's, unless the server has refused the first few and answered none."""
        self._refused += 1
        if not self._answered and self._refused >= REFUSALS:
            return TeacherUnavailable(
                f"{self.url} refused each of the first {REFUSALS} requests to {self._model}: {self.clean(error)}"
            )
        return TeacherError(f"the server refused the request: {self.clean(error)}")

    def _unavailable(self, error: Exception, attempts: int = 1) -> TeacherUnavailable:
        """The one clear error: which server, what happened, what to do."""
        where = f"{self.section}.server"
        variable = self.settings.api_key_env
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            remedy = f"put a valid key in {variable}" + ("" if self._key else " (it is not set)")
        elif isinstance(error, openai.NotFoundError):
            remedy = f"check {where}.model ({self._model or 'not set'}) and {where}.base_url (it usually ends in /v1)"
        elif isinstance(error, openai.RateLimitError):
            remedy = f"wait, check your quota, or lower {where}.concurrency (now {self.settings.concurrency})"
        elif isinstance(error, TimeoutError | openai.APITimeoutError):
            remedy = f"raise {where}.timeout or lower {where}.concurrency (now {self.settings.concurrency})"
        elif isinstance(error, openai.InternalServerError):
            remedy = "look at the server's log"
        else:
            remedy = f"start the server or set {where}.base_url"
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        kind = TeacherUnreachable if may_pass(error) else TeacherUnavailable
        return kind(
            f"the teacher's server {self.url} is of no use: {self.clean(error)}{times}. "
            f"To go on, {remedy}, and run again; what is finished is kept."
        )

    @property
    def url(self) -> str:
        return self.settings.base_url

    def clean(self, error: Exception) -> str:
        """The error in a few words, without the key."""
        if isinstance(error, openai.APIStatusError):
            text = f"{error.status_code} {error.message.removeprefix(f'Error code: {error.status_code} - ')}"
        elif isinstance(error, TimeoutError | openai.APITimeoutError):
            text = f"no answer within {self.settings.timeout:g} s"
        else:
            cause = root(error)
            number = getattr(cause, "errno", None) or 0  # an OSError's own words vary with the event loop
            text = os.strerror(number) if number > 0 else f"{type(cause).__name__}: {cause}"
        return self._storable(" ".join(text.split()))[:500]


def first(failures: BaseException) -> BaseException:
    """The first error of nested task groups: what one worker ran into, not how the others were called off."""
    while isinstance(failures, BaseExceptionGroup):
        failures = failures.exceptions[0]
    return failures


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, openai.APIStatusError):
        return error.code != "insufficient_quota" and (error.status_code in (408, 409, 429) or error.status_code >= 500)
    return True  # a timeout, a lost connection, half a body


def waiting_time(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt: what the server asks for, else doubling from `FIRST_WAIT`, jittered by half."""
    if isinstance(error, openai.APIStatusError) and (asked := retry_after(error.response.headers.get("retry-after"))):
        return min(asked, LONGEST_RETRY_AFTER)
    return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date (RFC 9110, 10.2.3).

    >>> retry_after("2"), retry_after("soon")
    (2.0, None)
    """
    if not header:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def root(error: BaseException) -> BaseException:
    """The error that started it: a client wraps "Connection refused" in errors that only say "Connection error."."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error
