"""Console view: the node's data in the console process, and how much of it each browser has received.

The view has the last requests, the chart data of the last 15 minutes, and the newest value of each part of
the node's data, so its size is bounded. A slow browser gets the newest data, not a backlog.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

MOMENTS = 450
"""Number of ticks whose figures are kept; a tick is two seconds."""
ROWS = 200


@dataclass(slots=True)
class Cursor:
    """How much of the view one browser has received."""

    version: int = 0
    moment: int = 0


class View:
    """Data of the node for browsers; must be used in one event loop."""

    def __init__(self) -> None:
        self._version = 0
        self._rows: OrderedDict[int, tuple[int, dict[str, Any]]] = OrderedDict()
        self._moments: deque[dict[str, Any]] = deque(maxlen=MOMENTS)
        self._moment = 0
        self._parts: dict[str, tuple[int, Any]] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def take(self, message: dict[str, Any]) -> None:
        """Adds the data of a message from the node, of kind ``tick``, ``rows`` or ``told``."""
        self._version += 1
        if message["kind"] == "tick":
            self._moment += 1
            self._moments.append(message["moment"])
        elif message["kind"] == "told":
            self._parts[message["part"]] = (self._version, message["value"])
        else:
            for row in message["rows"]:
                self._rows[row["n"]] = (self._version, row)  # keeps its place in the order
            while len(self._rows) > ROWS:
                self._rows.popitem(last=False)
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def news(self, cursor: Cursor) -> dict[str, Any]:
        """Data that is new to the browser with ``cursor``, or all data for a new cursor. Moves the cursor."""
        rows = [row for version, row in self._rows.values() if version > cursor.version]
        unseen = min(self._moment - cursor.moment, len(self._moments))
        news: dict[str, Any] = {}
        if rows:
            news["rows"] = rows
        if unseen:
            news["moments"] = list(self._moments)[-unseen:]
        for part, (version, value) in self._parts.items():
            if version > cursor.version:
                news[part] = value
        cursor.version, cursor.moment = self._version, self._moment
        return news

    async def changed(self, cursor: Cursor, timeout_s: float) -> None:
        """Waits until there is new data for the browser with ``cursor``, or until ``timeout_s`` is over."""
        if cursor.version != self._version:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(future)
