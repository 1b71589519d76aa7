"""Metrics endpoint for Prometheus: serves ``GET /metrics`` over HTTP/1.1, on the event loop.

A slow or faulty scraper affects only its own connection, since each connection has limits of time and size.
Connections beyond :data:`CONNECTIONS` are closed at once. Responses are cached for a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from http import HTTPStatus

from edgeslm.telemetry.extension import Documented, Extension
from edgeslm.telemetry.metrics import exposition

log = logging.getLogger("edgeslm.telemetry")

CONNECTIONS = 8
"""Maximum number of concurrent connections; Prometheus needs one."""
PATIENCE_S = 5.0
MOST_BYTES = 8192
"""Maximum size of a request's line and headers, in bytes."""
FRESH_S = 1.0

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class ScrapeEndpoint(Extension):
    """Listens on ``address`` (host and port) from :meth:`start` to :meth:`stop`.

    :param patience_s: timeout for receiving a request, and also for sending the response.
    :param fresh_s: how long a response is cached.
    """

    def __init__(
        self,
        address: tuple[str, int],
        node: Documented,
        *,
        patience_s: float = PATIENCE_S,
        fresh_s: float = FRESH_S,
    ) -> None:
        self._address = address
        self._node = node
        self._patience_s = patience_s
        self._fresh_s = fresh_s
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._answers: dict[str, tuple[float, bytes]] = {}

    @property
    def port(self) -> int | None:
        """The port that the endpoint listens on; None if it doesn't listen."""
        return self._server.sockets[0].getsockname()[1] if self._server and self._server.sockets else None

    async def start(self) -> None:
        """Begins to listen; a failure only sets :attr:`problem`, since the node can serve without metrics."""
        host, port = self._address
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=MOST_BYTES)
        except OSError as error:
            why = error.strerror or type(error).__name__
            self.problem = f"There is no metrics endpoint: {host}:{port} can't be listened on: {why}."
            log.error("%s", self.problem)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one request, then closes the connection."""
        try:
            async with asyncio.timeout(self._patience_s):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer(head))
            async with asyncio.timeout(self._patience_s):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except asyncio.LimitOverrunError:
            writer.write(_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
            writer.close()
        except (TimeoutError, OSError, EOFError):
            pass  # the scraper's fault
        except Exception as error:  # a bug
            log.error("a scrape was not answered: %s", type(error).__name__)
            log.debug("a scrape was not answered", exc_info=True)
            writer.write(_response(HTTPStatus.INTERNAL_SERVER_ERROR))
            writer.close()
        finally:
            with contextlib.suppress(Exception):
                if not writer.transport.is_closing() or writer.transport.get_write_buffer_size():
                    writer.transport.abort()

    def answer(self, head: bytes) -> bytes:
        """The response to a request with this ``head``, which is untrusted and ends with an empty line."""
        line, *fields = head.decode("latin-1").split("\r\n")
        method, path, version = [*line.split(" "), "", "", ""][:3]
        if not version.startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        if path.partition("?")[0] != "/metrics":
            return _response(HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow: GET, HEAD",))
        named = (field.partition(":") for field in fields)
        accept = next((value.strip() for name, _, value in named if name.lower() == "accept"), "")
        # Cached by format, not by header: varied headers must not cause new reads.
        whole = self._fresh(OPENMETRICS if "application/openmetrics-text" in accept else "")
        return whole if method == "GET" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def _fresh(self, accept: str) -> bytes:
        now = time.monotonic()
        at, whole = self._answers.get(accept, (0.0, b""))
        if not whole or now - at >= self._fresh_s:
            body, content_type = exposition(self._node.health(), accept)
            whole = _response(HTTPStatus.OK, (f"Content-Type: {content_type}",), body)
            self._answers[accept] = (now, whole)
        return whole


def _response(status: HTTPStatus, fields: tuple[str, ...] = (), body: bytes = b"") -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *fields,
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
