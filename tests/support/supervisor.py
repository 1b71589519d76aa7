"""A stand-in for Home Assistant's Supervisor, as far as the add-on asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BROKER = {"host": "core-mosquitto", "port": 1883, "username": "addons", "password": "secret", "ssl": False}


@dataclass
class Supervisor:
    """``replies`` are status and body of the answers, the last one again and again."""

    url: str
    replies: list[tuple[int, Any]] = field(default_factory=lambda: [(200, {"result": "ok", "data": BROKER})])
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def reply(self) -> tuple[int, bytes]:
        status, body = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


@contextmanager
def running_supervisor(host: str = "127.0.0.1", port: int = 0) -> Iterator[Supervisor]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append((self.path, self.headers["Authorization"]))
            status, body = fake.reply()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer((host, port), Handler)
    fake = Supervisor(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
