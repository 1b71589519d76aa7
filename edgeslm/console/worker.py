"""The console process: runs the web server, connected to the node by a pipe.

A separate process keeps slow or hostile browsers away from the node, and takes memory only if there is a
console. The process ends when the pipe closes.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Mapping
from typing import Any

from edgeslm.console.access import Access
from edgeslm.console.view import View
from edgeslm.console.web import Web
from edgeslm.console.wire import FROM_CONSOLE, Ask, Look, Teach, Viewers
from edgeslm.ipc.codec import FrameError
from edgeslm.web.server import Refusal, WebWorker, run_worker, serve

MARGIN_S = 10.0
"""Time added to a request's timeout, for its transfer through the pipe."""


class Worker(WebWorker):
    """The console process, with its web server, view and pipe."""

    sends = FROM_CONSOLE

    def __init__(self) -> None:
        super().__init__()
        self._view = View()
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._timeout_s = 120.0

    async def serve(self, settings: Mapping[str, Any]) -> None:
        self._timeout_s = settings["timeout_s"]
        secure = settings["secure"]
        web = Web(
            Access(settings["token"], hosts=settings["hosts"], secure=secure),
            self._view,
            self,
            secure=secure,
            texts=settings["texts"],
            teaches=settings["teaches"],
        )
        await serve(web.app, settings, self.say)

    def take(self, message: dict[str, Any]) -> None:
        if message["kind"] in ("answer", "text", "taught"):
            future = self._pending.get(message["number"])
            if future is not None and not future.done():
                future.set_result(message)
        else:
            self._view.take(message)

    def note_viewers(self, count: int) -> None:
        self.say(Viewers(count))

    async def ask(self, task: str, text: str, options: dict[str, Any]) -> dict[str, Any]:
        told = await self._get(Ask(next(self._numbers), task, text, options))
        result: dict[str, Any] = told["result"]
        return result

    async def text(self, row: int) -> dict[str, Any]:
        told = await self._get(Look(next(self._numbers), row))
        return {"input": told["input"], "output": told["output"]}

    async def teach(self, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
        told = await self._get(Teach(next(self._numbers), action, arguments))
        state: dict[str, Any] = told["state"]
        return state

    async def _get(self, asked: Ask | Look | Teach) -> dict[str, Any]:
        future = self._pending[asked.number] = asyncio.get_running_loop().create_future()
        try:
            self.say(asked)
            async with asyncio.timeout(self._timeout_s + MARGIN_S):
                told: dict[str, Any] = await future
                return told
        except TimeoutError:
            raise Refusal(504, "The node doesn't answer.") from None
        except FrameError:
            raise Refusal(413, "That is more than the node takes.") from None
        finally:
            del self._pending[asked.number]


if __name__ == "__main__":
    run_worker(sys.argv[1:], Worker)
