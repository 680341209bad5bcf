"""A real HTTP server that speaks the OpenAI protocol and misbehaves exactly as told."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Handler"], None]


def text_of(body: dict[str, Any]) -> str:
    """All text of a request's messages."""
    contents = [message["content"] for message in body["messages"]]
    parts = [content if isinstance(content, list) else [{"type": "text", "text": content}] for content in contents]
    return "\n".join(part["text"] for content in parts for part in content if part["type"] == "text")


class Handler(BaseHTTPRequestHandler):
    server: MisbehavingServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.told_otherwise():
            return
        if "/batches/" in self.path:
            self.send(200, self.server.batches[self.path.rpartition("/")[2]])
        elif "/files/" in self.path:
            data = self.server.files[self.path.split("/")[-2]]
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send(
                200,
                {"object": "list", "data": [{"id": "first-model", "object": "model", "max_model_len": 5000}]},
            )

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.told_otherwise():
            return
        if self.path.endswith("/files") and self.server.offline is not None:
            name = f"file-{len(self.server.files)}"
            form = message_from_bytes(b"content-type: " + self.headers["content-type"].encode() + b"\n\n" + content)
            [data] = [part.get_payload(decode=True) for part in form.get_payload() if part.get_filename()]
            self.server.files[name] = data
            self.send(200, {"id": name, "object": "file", "purpose": "batch"})
            return
        if self.path.endswith("/batches") and self.server.offline is not None:
            self.send(200, self.server.start_batch(json.loads(content)))
            return
        if not self.path.endswith("/chat/completions"):
            status(404, "no such address")(self)
            return
        self.body = json.loads(content)
        with self.server.lock:
            self.server.requests.append(self.body)
            self.server.times.append(time.monotonic())
            self.server.authorization.add(self.headers["authorization"])
            reply = self.server.replies.pop(0) if self.server.replies else self.server.usual
        reply(self)

    def told_otherwise(self) -> bool:
        """Give the reply that was set for this address, if there is one."""
        reply = next((reply for part, reply in self.server.otherwise.items() if part in self.path), None)
        if reply is not None:
            reply(self)
        return reply is not None

    def send(self, code: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        for name, content in (
            {"content-type": "application/json", "content-length": str(len(data))} | (headers or {})
        ).items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class MisbehavingServer(ThreadingHTTPServer):
    """Gives `replies` one after another, then `usual` for ever; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, usual: Reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.usual, self.replies = usual, []
        self.otherwise: dict[str, Reply] = {}  # replies for addresses that contain a text
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.authorization: set[str | None] = set()
        self.offline: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None  # answers a line of a batch
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def start_batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A batch that is done the second time it is looked at, its lines in another order."""
        assert self.offline is not None
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        answers = [answer for line in reversed(lines) if (answer := self.offline(line))]
        name, output = f"batch-{len(self.batches)}", f"output-{len(self.batches)}"
        self.files[output] = "\n".join(map(json.dumps, answers)).encode()
        batch = {"id": name, "object": "batch", "status": "in_progress", "endpoint": asked["endpoint"]}
        self.batches[name] = batch | {"input_file_id": asked["input_file_id"], "completion_window": "24h"}
        threading.Timer(0.3, self.batches[name].update, [{"status": "completed", "output_file_id": output}]).start()
        return self.batches[name]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> MisbehavingServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def completion(content: str | None, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    """A chat completion of 100 prompt tokens and 10 answer tokens; its id is always the same."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    value = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return value | {"usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}}


def answer(content: str | None, finish: str = "stop", refusal: str | None = None) -> Reply:
    return lambda handler: handler.send(200, completion(content, finish, refusal))


def truncated(handler: Handler) -> None:
    """A body that is announced as it is, and ends in the middle of its JSON."""
    data = json.dumps(completion("A red box")).encode()[:60]
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def endless(handler: Handler) -> None:
    """10 MB of answer, in chunks, until the client has had enough."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.close_connection = True
    try:
        for _ in range(160):
            handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")
    except OSError:
        pass


def status(code: int, message: str, headers: dict[str, str] | None = None, error_code: str | None = None) -> Reply:
    error = {"message": message, "type": "x", "code": error_code}
    return lambda handler: handler.send(code, {"error": error}, headers)


def reset(handler: Handler) -> None:
    """Announce a long body, send a little of it, and reset the connection."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "1", "choi')
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def hang(seconds: float) -> Reply:
    def reply(handler: Handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return reply


def html(handler: Handler) -> None:
    """What a web site says to a request it does not know."""
    data = b"<html>welcome</html>"
    handler.send_response(200)
    handler.send_header("content-type", "text/html")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
