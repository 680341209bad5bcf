"""A real HTTP server that speaks the OpenAI protocol and misbehaves exactly as told."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
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
        if self.server.refuses_all:
            status(401, "no")(self)
        else:
            self.send(
                200,
                {"object": "list", "data": [{"id": "first-model", "object": "model", "created": 0, "owned_by": "x"}]},
            )

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(self.body)
            self.server.times.append(time.monotonic())
            self.server.authorization.add(self.headers["authorization"])
            reply = self.server.replies.pop(0) if self.server.replies else self.server.usual
        reply(self)

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
        self.usual, self.replies, self.refuses_all = usual, [], False
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.authorization: set[str | None] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> MisbehavingServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def answer(content: str | None, finish: str = "stop", refusal: str | None = None) -> Reply:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    value = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return lambda handler: handler.send(200, value)


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
