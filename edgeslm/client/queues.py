"""Event queues of the client: one for threads, one for asyncio.

``put`` is thread-safe, never blocks and never raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue

from edgeslm.client.pending_request import Event


class ThreadQueue:
    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __len__(self) -> int:
        return self._events.qsize()

    def put(self, event: Event) -> None:
        self._events.put(event)

    def take(self, wait_s: float | None) -> Event | None:
        """The oldest event; None if none came within ``wait_s`` seconds. With ``wait_s`` None, this method
        waits for ever."""
        try:
            return self._events.get(timeout=wait_s)
        except queue.Empty:
            return None


class LoopQueue:
    """An event queue for the asyncio loop in which it is created."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def __len__(self) -> int:
        return self._events.qsize()

    def put(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def take(self, wait_s: float | None) -> Event | None:
        """Like :meth:`ThreadQueue.take`."""
        # Not wait_for: before Python 3.12 it swallows a cancellation that arrives with an event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                return await self._events.get()
        return None
