"""Admission: is there room for one more message, and each held until its work has ended.

Knows no requests; what becomes of a message in the end is for whoever made it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from edgeslm.config.sections import Limits
from edgeslm.node.in_flight import InFlight

log = logging.getLogger("edgeslm.node")


class Admission:
    """``on_release`` gets each message once its work has ended: answered, or else broken off. ``on_failure``
    is awaited before if it is a request, with what some of the work ended with: a mistake of ours."""

    def __init__(
        self,
        on_release: Callable[[InFlight, bool], None],
        on_failure: Callable[[InFlight, Exception], Coroutine[Any, Any, None]],
    ) -> None:
        self._on_release = on_release
        self._on_failure = on_failure
        self._held: dict[InFlight, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.bytes = 0
        self.qos0 = 0
        """Those that came at QoS 0."""

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[InFlight]:
        """The oldest first."""
        return iter(self._held)

    def has_room(self, limits: Limits) -> bool:
        return len(self._held) < limits.queue and self.bytes < limits.queue_bytes

    def why_full(self, held: InFlight, limits: Limits) -> str | None:
        """Why a message is one too many, as a part of a sentence."""
        if held.qos0 and self.qos0 >= limits.qos0_queue:
            return f"{self.qos0} messages of QoS 0 are waiting, which is the limit; send at QoS 1"
        if self._held and self.bytes + held.size > limits.queue_bytes:
            return f"{self.bytes} bytes are waiting and {limits.queue_bytes} are the limit"
        return None

    def hold(self, held: InFlight, work: list[Coroutine[Any, Any, None]]) -> None:
        """Releases a message when all of its work has ended, even badly.

        Acknowledgements keep their order, so one that never left would hold back all that follow.
        """
        held.left = len(work)
        self._held[held] = None
        self.bytes += held.size
        self.qos0 += held.qos0

        def ended(task: asyncio.Task[None], *, may_fail: bool = False) -> None:
            held.left -= 1
            held.is_broken_off = held.is_broken_off or task.cancelled()
            error = None if task.cancelled() else task.exception()
            if may_fail and held.is_request and isinstance(error, Exception):
                held.left += 1
                self.start(self._on_failure(held, error)).add_done_callback(ended)
            if not held.left:
                self._release(held, answered=not held.is_broken_off)

        for each in work:
            self.start(each).add_done_callback(partial(ended, may_fail=True))
        if not work:
            self._release(held, answered=True)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside the messages that are held; a drain waits for it too."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def drain(self, limit_s: float) -> int:
        """Waits for what is being worked on; how much is left after ``limit_s``."""
        give_up_at = time.monotonic() + limit_s
        while self._tasks and (left_s := give_up_at - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        return len(self._tasks)

    def abandon(self) -> None:
        """Breaks off what is left: it is not answered."""
        for task in self._tasks:
            task.cancel()

    def _release(self, held: InFlight, *, answered: bool) -> None:
        del self._held[held]
        self.bytes -= held.size
        self.qos0 -= held.qos0
        self._on_release(held, answered)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message was not served to its end: %s", type(error).__name__)
            log.debug("a message was not served to its end", exc_info=error)
