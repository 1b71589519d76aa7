"""The API process: runs the web server, connected to the node by a pipe.

A separate process keeps slow or hostile clients away from the node, and takes memory only if there is an API.
The process ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from edgeslm.api.node import NodeLink
from edgeslm.api.web import make_app
from edgeslm.api.wire import FROM_API, Said
from edgeslm.ipc.pipe import Link
from edgeslm.web.process import TO_WEB
from edgeslm.web.server import run_worker, serve

MOST_CONNECTIONS = 256
"""Maximum number of connections, idle ones included; above it, new ones get the status 503."""


class Worker:
    """The API process, with its web server and pipe."""

    def __init__(self) -> None:
        self._settings: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._node: NodeLink | None = None
        self._ended = asyncio.Event()
        self._link: Link | None = None
        self._early: list[dict[str, Any]] = []

    async def run(self, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        _, self._link = await loop.create_unix_connection(
            lambda: Link(FROM_API, TO_WEB, self._take, self._ended.set),
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
        self._node = NodeLink(self._say, settings["timeout_s"], anonymous=settings["anonymous"])
        for message in self._early:
            self._node.take(message)
        app = make_app(self._node, settings)
        await serve(app, settings, self._say, connections=MOST_CONNECTIONS)

    def _take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "settings":
            self._settings.set_result(message)
        elif self._node is None:
            self._early.append(message)
        else:
            self._node.take(message)

    def _say(self, said: Said) -> None:
        if self._link is not None:
            self._link.send(said)


async def _run(descriptor: int) -> None:
    await Worker().run(descriptor)


if __name__ == "__main__":
    run_worker(sys.argv[1:], _run)
