"""The same requests as files, answered offline: OpenAI's batch API, or a person with another tool.

    <stage>/batches/<name>.jsonl            the requests, one a line
    <stage>/batches/<name>.json             which batch of the server's it became
    <stage>/batches/<name>.results.jsonl    the answers, as the batch API writes them

How it departs from the live server: a request is named by the hash of its content and waits until its answer is in some
results file. When all items wait, the open requests are written, sent and waited for; with several steps (summaries,
questions, rewritings) there are as many rounds. A killed run finds its batches and their results again and pays for
nothing twice. Where the server has no batches the run stops and says where the file is and where its answers belong.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import httpx2
import openai
from openai.types import FileObject

from longrl.config import TeacherServer
from longrl.teachers.base import TeacherError, TeacherUnavailable
from longrl.teachers.connection import END, outcome
from longrl.teachers.dialect import Dialect
from longrl.teachers.server import Completion, Exchange, Server
from longrl.warehouse.sharing import unfinished

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MOST_REQUESTS = 50_000  # in a file, and
MOST_BYTES = 190 * 2**20  # of it, within what OpenAI takes
QUIET = 0.2  # seconds without a new request after which all items are taken to wait
FIRST_POLL, LONGEST_POLL = 0.5, 60.0  # seconds between looks at a batch
ENDED = ("completed", "failed", "expired", "cancelled")
RESULTS = ".results.jsonl"
NAME = re.compile(r'\{"custom_id": "([0-9a-f]{32})"')

log = logging.getLogger(__name__)


class BatchServer(Server):
    """A server that answers by files; `folder` holds them."""

    def __init__(self, settings: TeacherServer, section: str, folder: Path):
        super().__init__(settings, section)
        self.folder = folder
        self._waiting: dict[str, list[asyncio.Future[Any]]] = {}
        self._answers: dict[str, tuple[Path, int]] = {}  # where each known answer's line begins
        self._asked: dict[str, Path] = {}  # requests in batches that are under way
        self._files: list[Path] = []
        self._file: TextIO | None = None
        self._names: list[str] = []
        self._open = 0

    async def _run(self, feed, work, on_done) -> None:
        async def worker(item) -> None:
            on_done(item, await outcome(work, item))
            self._open -= 1

        async def lead() -> None:
            async with asyncio.TaskGroup() as group:
                while (item := await feed.take()) is not END:
                    self._open += 1
                    group.create_task(worker(item))
                while self._open:
                    await self._all_wait()
                    await self._round()

        self._slots = asyncio.Semaphore(self.settings.concurrency)
        self._take_stock()
        try:
            await self._together([lead])
        finally:
            if self._file is not None:  # the run ends before its requests were sent
                self._file.close()
                Path(self._file.name).unlink()

    async def _answer(
        self, messages: list[dict[str, Any]], schema: dict[str, Any] | None, exchange: Exchange
    ) -> Completion:
        body = Dialect().request(self.settings, self._model, messages, schema)
        name = request_name(body)
        if name not in self._answers:
            future = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(name, []).append(future)
            if len(self._waiting[name]) == 1 and name not in self._asked:
                self._write(name, body)
            drop_pictures(messages)
            await future
        exchange.attempts += 1
        path, start = self._answers[name]
        return self._result(line_at(path, start))

    def _result(self, value: dict[str, Any]) -> Completion:
        """The completion in a line of results; raises `TeacherError` when the request failed."""
        response = value.get("response")
        body = response.get("body") if isinstance(response, dict) else response
        if not succeeded(value):
            complaint = body.get("error") if isinstance(body, dict) else body
            told = value.get("error") or complaint or response or "no response"
            words = told.get("message", told) if isinstance(told, dict) else told
            raise TeacherError(f"the batch's request failed: {self._storable(str(words))[:300]}")
        completion = self._completion(body)
        self._answered += 1
        return completion

    def _take_stock(self) -> None:
        """Find the answers and the batches of former runs; what failed in a batch is asked again, but not by hand."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob(f"*{RESULTS}")):
            self._index(path, failures=not (self.folder / f"{path.name.removesuffix(RESULTS)}.json").exists())
        for state in sorted(self.folder.glob("*.json")):
            requests = state.with_suffix(".jsonl")
            if not results_of(requests).exists():
                self._asked |= dict.fromkeys(names_in(requests), requests)

    def _index(self, path: Path, failures: bool) -> None:
        """Note where the answers in a results file are; of several to one request the first counts."""
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    value = json.loads(line) if line.strip() else {}
                except ValueError:
                    value = None
                if not isinstance(value, dict):
                    log.warning("%s line %d is no JSON object and is left out", path, number)
                elif "custom_id" in value and (failures or succeeded(value)):
                    self._answers.setdefault(value["custom_id"], (path, start))
                start += len(line)

    def _write(self, name: str, body: dict[str, Any]) -> None:
        """Add a request to the open file, beginning another one where it is full."""
        if self._file is not None and (len(self._names) >= MOST_REQUESTS or self._file.tell() >= MOST_BYTES):
            self._close_file()
        if self._file is None:
            self._file = unfinished(self.folder / "requests").open("w", encoding="utf-8")
        line = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._names.append(name)

    def _close_file(self) -> None:
        """Give the open file its name, the hash of its requests' names."""
        if self._file is None:
            return
        self._file.close()
        path = self.folder / f"{hashlib.sha256(''.join(sorted(self._names)).encode()).hexdigest()[:16]}.jsonl"
        Path(self._file.name).replace(path)
        results_of(path).unlink(missing_ok=True)  # of the same requests: all of them failed, or none would be open
        self._files.append(path)
        self._file, self._names = None, []

    async def _all_wait(self) -> None:
        """Return when no item has come up with a new request for a while, or all are done."""
        before = -1
        while self._open and before != (count := sum(map(len, self._waiting.values())) + self._open):
            before = count
            await asyncio.sleep(QUIET)

    async def _round(self) -> None:
        """Send what is open, wait for everything that is waited for, and hand out the answers."""
        self._close_file()
        files, self._files = self._files, []
        for path in files:
            await self._submit(path, files)
            self._asked |= dict.fromkeys(names_in(path), path)
        needed = {self._asked[name] for name in self._waiting if name in self._asked}
        for path in sorted(needed):
            await self._collect(path)
        waiting, self._waiting = self._waiting, {}
        for name, futures in waiting.items():
            self._asked.pop(name, None)
            for future in futures:
                if name in self._answers:
                    future.set_result(None)
                else:
                    future.set_exception(TeacherError("the batch ended without an answer to this request"))

    async def _submit(self, path: Path, files: list[Path]) -> None:
        try:
            with path.open("rb") as content:
                upload = await self._client.files.create(file=(path.name, content), purpose="batch")
            if not isinstance(upload, FileObject):
                raise self._not_a_server()
            batch = await self._client.batches.create(
                input_file_id=upload.id, endpoint=ENDPOINT, completion_window="24h"
            )
        except openai.APIStatusError as error:
            if error.status_code in (404, 405, 501):
                raise self._by_hand(files) from None
            raise self._unavailable(error) from None
        except (openai.APIError, ValueError) as error:
            raise self._unavailable(error) from None
        partial = unfinished(path)
        partial.write_text(json.dumps({"batch": batch.id}))
        partial.replace(path.with_suffix(".json"))
        log.info("%s: batch %s with the requests of %s", self.url, batch.id, path)

    def _by_hand(self, files: list[Path]) -> TeacherUnavailable:
        named = "\n".join(f"  {path}  ->  {results_of(path)}" for path in files)
        return TeacherUnavailable(
            f"{self.url} has no batches. The requests are written, in OpenAI's batch format; have them answered by "
            f"other means, put the answers where the arrow points, and run again (or set {self.section}.mode=live):\n"
            f"{named}"
        )

    async def _collect(self, path: Path) -> None:
        """Wait for the batch of a file of requests and put its answers, good and bad, into the results file."""
        state = path.with_suffix(".json")
        number = json.loads(state.read_text())["batch"]
        wait = FIRST_POLL
        while (batch := await self._send(lambda: self._client.batches.retrieve(number))).status not in ENDED:
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_POLL)
        outputs = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        if not outputs:
            state.unlink()
            told = "; ".join(error.message or "" for error in (batch.errors.data if batch.errors else None) or [])
            raise TeacherUnavailable(
                f"batch {number} of {self.url} {batch.status} without an answer ({self._storable(told)[:300]}); "
                f"see to it and run again, or set {self.section}.mode=live"
            )
        partial = unfinished(path)
        with partial.open("wb") as results:
            for file in outputs:
                await self._download(file, results)
                results.write(b"\n")
        partial.replace(results_of(path))
        self._index(results_of(path), failures=True)

    async def _download(self, file: str, results: BinaryIO) -> None:
        try:
            async with self._client.files.with_streaming_response.content(file) as content:
                async for chunk in content.iter_bytes():
                    results.write(chunk)
        except (openai.APIError, httpx2.HTTPError) as error:
            raise self._unavailable(error) from None

    @property
    def _longest_body(self) -> int:
        return 2 * MOST_BYTES


def request_name(body: dict[str, Any]) -> str:
    """The `custom_id` of a request: 32 hex digits of sha256 over its JSON."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def succeeded(value: dict[str, Any]) -> bool:
    """Whether a line of results holds an answer."""
    response = value.get("response")
    return not value.get("error") and isinstance(response, dict) and response.get("status_code") == 200


def drop_pictures(messages: list[dict[str, Any]]) -> None:
    """Free the pictures of messages that are written to a file and now wait for their answer."""
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] in ("image_url", "video_url"):
                part[part["type"]]["url"] = ""


def results_of(requests: Path) -> Path:
    """Where the answers to a file of requests belong."""
    return requests.with_name(requests.stem + RESULTS)


def names_in(requests: Path) -> Iterator[str]:
    """The names of the requests in a file, without reading their pictures into objects."""
    with requests.open(encoding="utf-8") as file:
        for line in file:
            if match := NAME.match(line):
                yield match[1]


def line_at(path: Path, start: int) -> dict[str, Any]:
    """The JSON line that begins at a byte of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.readline())
