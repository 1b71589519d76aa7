"""An OpenAI-compatible server for tests, which may be slow, overloaded or wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], "str | bytes | int | None"]
"""Request -> the message's text, a whole body, a status, or None to close the connection."""


def completion(text: str | None, calls: list[dict[str, Any]] | None = None, **choice: Any) -> bytes:
    """The body of a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls is not None:
        functions = [{"name": call["name"], "arguments": json.dumps(call["arguments"])} for call in calls]
        message["tool_calls"] = [
            {"id": "c", "type": "function", "function": function} for function in functions
        ]
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    }
    return json.dumps(body).encode()


class FakeChatServer:
    """Answers with ``answer``; ``asked`` has the bodies, ``headers`` their headers, ``received`` their
    bytes."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.received = 0
        self.retry_after: str | None = None
        self.is_stalling = threading.Event()
        """Set while requests get no answer."""
        self.goes_on = threading.Event()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with fake._lock:
                    fake.received += len(body)
                    fake.asked.append(json.loads(body))
                    fake.headers.append({name.lower(): value for name, value in self.headers.items()})
                if fake.is_stalling.is_set():
                    fake.goes_on.wait(30)
                self._send(fake.answer(json.loads(body)))

            def _send(self, answer: str | bytes | int | None) -> None:
                if answer is None:
                    self.close_connection = True
                    return
                status = answer if isinstance(answer, int) else 200
                content = b"{}" if isinstance(answer, int) else answer
                content = completion(content) if isinstance(content, str) else content
                if content.startswith(b"400 "):
                    status, content = 400, content[4:]
                try:
                    self.send_response(status)
                    if fake.retry_after is not None and status == 429:
                        self.send_header("Retry-After", fake.retry_after)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client doesn't wait any more
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:  # a client that closed its connection
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @contextmanager
    def running(self) -> Iterator[FakeChatServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.goes_on.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def said_by_user(body: Mapping[str, Any]) -> str:
    """The last message of a request."""
    return str(body["messages"][-1]["content"])
