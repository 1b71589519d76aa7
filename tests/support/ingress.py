"""Home Assistant's ingress for tests: a page with a frame, and a proxy for what is below the frame's path.

Like the real one (``homeassistant/components/hassio/ingress.py``, then ``supervisor/api/ingress.py``), it
keeps the Host header, adds X-Ingress-Path, and removes the path's prefix.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.apps import WAIT_S

PREFIX = "/api/hassio_ingress/token-of-the-tests"
PAGE = f'<!doctype html><title>Home</title><iframe src="{PREFIX}/" width="1200" height="800"></iframe>'


@contextmanager
def ingress(console_port: int) -> Iterator[str]:
    """Runs the proxy. Yields the address of the page with the frame."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                self.reply(200, [("Content-Type", "text/html")], PAGE.encode())
                return
            connection = http.client.HTTPConnection("127.0.0.1", console_port, timeout=WAIT_S)
            try:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = dict(self.headers) | {"X-Ingress-Path": PREFIX}
                connection.request(self.command, self.path[len(PREFIX) :], body, headers)
                response = connection.getresponse()
                kept = [(k, v) for k, v in response.getheaders() if k.lower() not in DROPPED]
                if response.getheader("Content-Type") != "text/event-stream":
                    self.reply(response.status, kept, response.read())
                    return
                self.reply(response.status, kept, None)
                while piece := response.read1():
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True
            finally:
                connection.close()

        def do_POST(self) -> None:
            self.do_GET()

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes | None) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if body is not None:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


DROPPED = ("content-length", "transfer-encoding", "connection", "date", "server")
