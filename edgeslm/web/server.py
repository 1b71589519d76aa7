"""Web server of a child process: uvicorn with limits, for one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeslm.ipc.codec import Frames
from edgeslm.ipc.pipe import Link, Refused
from edgeslm.telemetry.log_lines import set_up_logging
from edgeslm.web.connections import STRANGER_S, Connection
from edgeslm.web.hosts import is_peer
from edgeslm.web.process import TO_WEB
from edgeslm.web.wire import Listening

BACKLOG = 256
"""Maximum number of connections that wait to be accepted."""
HEADER_BYTES = 16 * 1024
IDLE_S = 15.0
BODY_S = 10.0


class Refusal(Exception):
    """An error response: a status code and a sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


async def read_body(request: Request, most: int, key: str | None = None) -> bytes:
    """The body of a request. ``key`` is the configuration's key of ``most``, for the sentence.

    :raises Refusal: the body is longer than ``most`` bytes, or arrives too slowly.
    """
    body = bytearray()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise Refusal(413, f"This is longer than {most} bytes{f' ({key})' if key else ''}.")
            return bytes(body)
    raise Refusal(408, "This takes too long.")


def header_bytes(scope: Scope) -> int:
    """Length of a request's line and header, in bytes. h11 limits only a header that arrives in pieces."""
    line = len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


class PeerGuard:
    """Middleware: answers only clients whose address is in one of ``networks``."""

    def __init__(self, app: ASGIApp, networks: Collection[str]) -> None:
        self._app = app
        self._networks = networks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        is_known = client is not None and is_peer(client[0], self._networks)
        refusal = PlainTextResponse("This address isn't one of peers in the configuration.", 403)
        await (self._app if is_known else refusal)(scope, receive, send)


class Server(uvicorn.Server):
    """A web server that handles no signals, since the node closes the pipe to stop it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, as uvicorn does, but ends TLS handshakes that take too long."""
        loop, config = asyncio.get_running_loop(), self.config
        self.servers = [
            await loop.create_server(
                lambda: Connection(config, self.server_state, self.lifespan.state),
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=STRANGER_S if config.ssl else None,
            )
            for one in sockets or ()
        ]
        self.started = True

    async def hang_up_on_idlers(self, idle_s: float = IDLE_S) -> None:
        """Closes connections that are idle for ``idle_s`` seconds; uvicorn would keep them open forever."""
        silent: dict[Any, Any] = {}
        while True:
            await asyncio.sleep(idle_s)
            seen = {one: getattr(one, "cycle", None) for one in self.server_state.connections}
            idle = {one: cycle for one, cycle in seen.items() if cycle is None or cycle.response_complete}
            for one, cycle in idle.items():
                if one in silent and silent[one] is cycle and one.transport is not None:
                    one.transport.abort()
            silent = idle


async def serve(
    app: ASGIApp, settings: Mapping[str, Any], say: Callable[[Listening | Refused], None]
) -> None:
    """Serves ``app`` until cancelled. ``settings`` are those of ``process.server_settings``; ``say`` tells
    the node where the server listens, or why it can't. ``app`` tells which requests have a valid token or
    session (``connections.admit``)."""
    server = Server(_config(PeerGuard(app, settings["peers"]) if settings["peers"] else app, settings))
    try:
        _load_certificate(server.config)
        listener = listen(settings["host"], settings["port"])
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = reason.partition(" (while attempting")[0]  # that part repeats the address
        where = error.filename if isinstance(error, OSError) and error.filename else settings["listen"]
        say(Refused(f"{where}: {reason}"))
        return
    port = listener.getsockname()[1]
    scheme = "https" if settings["cert_file"] else "http"
    host = f"[{settings['host']}]" if ":" in settings["host"] else settings["host"]
    say(Listening(f"{scheme}://{host}:{port}"))
    tidying = asyncio.create_task(server.hang_up_on_idlers())
    try:
        await server.serve(sockets=[listener])
    finally:
        tidying.cancel()


class WebWorker(ABC):
    """A web process: its pipe to the node, and its server. ``sends`` is the format of its messages."""

    sends: ClassVar[Frames]

    def __init__(self) -> None:
        self._settings: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._link: Link | None = None

    @abstractmethod
    async def serve(self, settings: Mapping[str, Any]) -> None:
        """Runs the server, with the settings of the node's first message."""

    @abstractmethod
    def take(self, message: dict[str, Any]) -> None:
        """Takes a later message of the node."""

    def say(self, said: Any) -> None:
        """Sends a message to the node. :raises FrameError: it is too long."""
        if self._link is not None:
            self._link.send(said)

    async def run(self, descriptor: int) -> None:
        """Serves until the node closes the pipe."""
        loop = asyncio.get_running_loop()
        _, self._link = await loop.create_unix_connection(
            lambda: Link(self.sends, TO_WEB, self._take, self._ended.set),
            sock=socket.socket(fileno=descriptor),
        )
        ended = asyncio.create_task(self._ended.wait())
        serving = asyncio.create_task(self._serve())
        await asyncio.wait([ended, serving], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            await ended  # lets the node read the last message before the pipe closes

    async def _serve(self) -> None:
        await self.serve(await self._settings)

    def _take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "settings":
            self._settings.set_result(message)
        else:
            self.take(message)


def run_worker(argv: list[str], worker: type[WebWorker]) -> None:
    """Entry point of ``python -m MODULE FD LOG_LEVEL``, which ``process`` starts. FD is the descriptor of the
    pipe."""
    # Ctrl-C and systemd's SIGTERM reach the whole group: the parent drains first and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(argv[1])
    logging.getLogger("uvicorn").setLevel("WARNING")

    async def run() -> None:
        await worker().run(int(argv[0]))

    asyncio.run(run())
    os._exit(0)  # open streams need no clean end


def listen(host: str, port: int) -> socket.socket:
    """:raises OSError: the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections inherit it. asyncio sets it only for sockets whose protocol number is given; without it,
    # Nagle's algorithm and delayed acknowledgements delay a streamed answer by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _load_certificate(config: uvicorn.Config) -> None:
    """Loads the server's settings, with its certificate. :raises OSError: a file can't be read; the error has
    its name. :raises ValueError: the certificate and its key can't be used."""
    files = [str(file) for file in (config.ssl_certfile, config.ssl_keyfile) if file]
    for file in files:
        Path(file).open("rb").close()  # OpenSSL's error has no name
    try:
        config.load()
    except (ssl.SSLError, ValueError):
        raise ValueError(
            f"{' and '.join(files)} must be a certificate and its key, both PEM, the key without pass phrase"
        ) from None


def _config(app: ASGIApp, settings: Mapping[str, Any]) -> uvicorn.Config:
    cert_file, key_file = settings["cert_file"], settings["key_file"]
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(IDLE_S),
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=Path(cert_file) if cert_file else None,
        ssl_keyfile=Path(key_file) if key_file else None,
        ssl_keyfile_password="",  # keeps OpenSSL from asking for one
    )
