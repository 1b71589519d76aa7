"""The API process: runs the web server, connected to the node by a pipe.

A separate process keeps slow or hostile clients away from the node, and takes memory only if there is an API.
The process ends when the pipe closes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from edgeslm.api.node import NodeLink
from edgeslm.api.web import make_app
from edgeslm.api.wire import FROM_API
from edgeslm.web.server import WebWorker, run_worker, serve


class Worker(WebWorker):
    """The API process, with its web server and pipe."""

    sends = FROM_API

    def __init__(self) -> None:
        super().__init__()
        self._node: NodeLink | None = None
        self._early: list[dict[str, Any]] = []

    async def serve(self, settings: Mapping[str, Any]) -> None:
        self._node = NodeLink(self.say, settings["timeout_s"], anonymous=settings["anonymous"])
        for message in self._early:
            self._node.take(message)
        async with AsyncExitStack() as stack:
            mcp = None
            if settings["mcp"]:
                from edgeslm.api.mcp import McpServer  # 36 MB

                mcp = await stack.enter_async_context(McpServer(self._node, settings))
            app = make_app(self._node, settings, mcp)
            await serve(app, settings, self.say)

    def take(self, message: dict[str, Any]) -> None:
        if self._node is None:
            self._early.append(message)
        else:
            self._node.take(message)


if __name__ == "__main__":
    run_worker(sys.argv[1:], Worker)
