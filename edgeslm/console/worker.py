"""The console process: runs the web server, connected to the node by a pipe.

A separate process keeps slow or hostile browsers away from the node, and takes memory only if there is a
console. The process ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from edgeslm.console.access import Access
from edgeslm.console.view import View
from edgeslm.console.web import Refusal, Web
from edgeslm.console.wire import FROM_CONSOLE, TO_CONSOLE, Ask, Listening, Look, Said, Viewers
from edgeslm.ipc.codec import FrameError
from edgeslm.ipc.pipe import Link, Refused
from edgeslm.telemetry.log_lines import set_up_logging

log = logging.getLogger("edgeslm.console")

MOST_CONNECTIONS = 64
HEADER_BYTES = 16 * 1024
IDLE_S = 15.0
MARGIN_S = 10.0
"""Time added to a request's timeout, for its transfer through the pipe."""


class ConsoleServer(uvicorn.Server):
    """A web server that handles no signals, since the node closes the pipe to stop it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

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


class Worker:
    """The console process, with its web server, view and pipe."""

    def __init__(self) -> None:
        self._view = View()
        self._settings: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._timeout_s = 120.0
        self._link: Link | None = None

    async def run(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        _, self._link = await loop.create_unix_connection(
            lambda: Link(FROM_CONSOLE, TO_CONSOLE, self._take, self._ended.set),
            sock=socket.socket(fileno=descriptor),
        )
        ended = asyncio.create_task(self._ended.wait())
        serving = asyncio.create_task(self._serve())
        await asyncio.wait([ended, serving], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            await ended  # lets the node read the last message before the pipe closes

    async def _serve(self) -> None:
        settings = await self._settings
        self._timeout_s = settings["timeout_s"]
        secure = settings["secure"]
        web = Web(
            Access(settings["token"], hosts=settings["hosts"], secure=secure),
            self._view,
            self,
            secure=secure,
            texts=settings["texts"],
        )
        try:
            listener = _listen(settings["host"], settings["port"])
            server = ConsoleServer(_config(web, settings))
            server.config.load()
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            reason = reason.partition(" (while attempting")[0]  # that part repeats the address
            self._say(Refused(f"{settings['listen']}: {reason}"))
            return
        port = listener.getsockname()[1]
        scheme = "https" if settings["cert_file"] else "http"
        host = f"[{settings['host']}]" if ":" in settings["host"] else settings["host"]
        self._say(Listening(f"{scheme}://{host}:{port}"))
        tidying = asyncio.create_task(server.hang_up_on_idlers())
        try:
            await server.serve(sockets=[listener])
        finally:
            tidying.cancel()

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "settings":
            self._settings.set_result(message)
        elif kind in ("answer", "text"):
            future = self._pending.get(message["number"])
            if future is not None and not future.done():
                future.set_result(message)
        else:
            self._view.take(message)

    def note_viewers(self, count: int) -> None:
        self._say(Viewers(count))

    async def ask(self, task: str, text: str, options: dict[str, Any]) -> dict[str, Any]:
        told = await self._get(Ask(next(self._numbers), task, text, options))
        result: dict[str, Any] = told["result"]
        return result

    async def text(self, row: int) -> dict[str, Any]:
        told = await self._get(Look(next(self._numbers), row))
        return {"input": told["input"], "output": told["output"]}

    async def _get(self, asked: Ask | Look) -> dict[str, Any]:
        future = self._pending[asked.number] = asyncio.get_running_loop().create_future()
        try:
            self._say(asked)
            async with asyncio.timeout(self._timeout_s + MARGIN_S):
                told: dict[str, Any] = await future
                return told
        except TimeoutError:
            raise Refusal(504, "The node doesn't answer.") from None
        except FrameError:
            raise Refusal(413, "That is more than the node takes.") from None
        finally:
            del self._pending[asked.number]

    def _say(self, said: Said) -> None:
        if self._link is not None:
            self._link.send(said)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)


def _config(web: Web, settings: dict[str, Any]) -> uvicorn.Config:
    cert_file, key_file = settings["cert_file"], settings["key_file"]
    return uvicorn.Config(
        web.app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=int(IDLE_S),
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=Path(cert_file) if cert_file else None,
        ssl_keyfile=Path(key_file) if key_file else None,
        ssl_keyfile_password="",  # keeps OpenSSL from asking for one
    )


async def _run(descriptor: int) -> None:
    await Worker().run(descriptor)


def main(argv: list[str]) -> None:
    """Entry point of ``python -m edgeslm.console.worker FD LOG_LEVEL``, which the module ``process``
    starts."""
    # Ctrl-C and systemd's SIGTERM reach the whole group: the parent drains first and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(argv[1])
    logging.getLogger("uvicorn").setLevel("WARNING")
    asyncio.run(_run(int(argv[0])))
    os._exit(0)  # open streams need no clean end


if __name__ == "__main__":
    main(sys.argv[1:])
