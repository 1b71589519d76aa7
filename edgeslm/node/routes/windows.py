"""Window aggregation (tumbling windows): collects a route's messages on disk and summarizes the messages of
each window.

A window begins with its first message, and is complete after a number of messages, after a time, or when a
message arrives on its ``on`` topic. The summary of a complete window is published, and the next message
begins another window. A route has one window per output topic. Messages for which a window has no room are
dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from edgeslm.config.fields import Window
from edgeslm.errors import JournalError
from edgeslm.node.in_flight import Admission
from edgeslm.node.routes.route import RouteWork
from edgeslm.storage.window_store import Gathered, StoredMessage, WindowName, Windows
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.node")

DROPPED: Final = "window"
"""Metric label of messages for which a window had no room."""
DAMAGED: Final = "damaged"
"""Metric label of messages that the disk has changed."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """Limits of open windows."""

    most_bytes: int = 1 << 20
    """Maximum total size of the messages of one window, in bytes."""
    all_bytes: int = 16 << 20
    """Maximum total size of the messages of all windows, in bytes."""
    most_open: int = 100
    """Maximum number of open windows per route. A limit is needed, since payloads can choose the output
    topics."""
    retry_s: float = 1.0
    """Pause before a failed write is retried."""


class Digester(Protocol):
    """Summarizes the ``messages`` of a window and publishes the summary on ``topic``. ``name`` is the name of
    the route, and ``batch`` is a sequence number that identifies the window."""

    async def digest(self, name: str, topic: str, messages: Mapping[str, Any], batch: int) -> None: ...


class Redact(Protocol):
    """Redacts messages of the route ``name`` that are stored unredacted; leaves out those that it can't."""

    async def __call__(self, name: str, messages: Sequence[Gathered], /) -> list[Gathered]: ...


@dataclass(slots=True)
class _OpenWindow:
    """A window that is being filled. ``dropped`` is the number of the window's messages that were dropped
    since the start of the node."""

    count: int = 0
    size: int = 0
    dropped: int = 0
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class WindowAggregator:
    """``windows`` maps the name of a route to the settings of its windows."""

    store: Windows
    windows: Mapping[str, Window]
    admission: Admission
    digester: Digester
    meter: Meter
    limits: WindowLimits = field(default_factory=WindowLimits)
    redact: Redact | None = None
    _open: dict[WindowName, _OpenWindow] = field(default_factory=dict, init=False)
    _size: int = 0
    _is_closed: bool = False
    _arrivals: list[tuple[Gathered, asyncio.Future[None]]] = field(default_factory=list, init=False)

    def open(self) -> None:
        """Restores windows from disk: publishes missing summaries and starts the timers."""
        for stored in self.store.stored():
            if stored.window[0] in self.windows:
                self._restore(stored)
                continue
            log.warning("%d messages of a removed route are deleted", stored.count)
            with suppress(JournalError):
                self.store.forget_route(stored.window[0])

    def _restore(self, stored: StoredMessage) -> None:
        if stored.batch:
            self._size += stored.size
            self.admission.start(self._make_digest(stored.window, stored.batch, stored.size, 0))
            return
        window = self._window(stored.window, stored.age_s)
        window.count, window.size = stored.count, stored.size
        self._size += stored.size
        self._complete_if_full(stored.window)

    def take_up(self, windows: Mapping[str, Window]) -> None:
        """Switches to ``windows``. An open window continues with the new settings of its route. If the route
        has no window settings any more, the messages of the window are deleted."""
        self._write()
        gone = [route for route in self.windows if route not in windows]
        changed = [route for route, window in self.windows.items() if windows.get(route, window) != window]
        for message, written in [one for one in self._arrivals if one[0].window[0] in gone]:
            self._arrivals.remove((message, written))
            written.set_result(None)
        for name in [name for name in self._open if name[0] in gone]:
            window = self._open.pop(name)
            self._size -= window.size
            if window.timer is not None:
                window.timer.cancel()
        for route in gone:
            with suppress(JournalError):  # the next start deletes them
                self.store.forget_route(route)
        self.windows = windows
        if not changed:
            return
        for stored in self.store.stored():
            name = stored.window
            if stored.batch or name[0] not in changed or name not in self._open:
                continue
            before = self._open.pop(name)
            if before.timer is not None:
                before.timer.cancel()
            window = self._window(name, stored.age_s)
            window.count, window.size, window.dropped = before.count, before.size, before.dropped
            self._complete_if_full(name)

    def close(self) -> None:
        """Stops the timers. Open windows stay on disk, so that the next run of the node continues them."""
        self._is_closed = True
        for window in self._open.values():
            if window.timer is not None:
                window.timer.cancel()

    async def add(
        self, route: str, work: RouteWork, topic: str, received: float, key: bytes | None, *, is_again: bool
    ) -> None:
        """Adds a message to its window. Returns when the message is on disk or dropped.

        :param topic: the message's input topic. :param received: time of receipt in seconds since the epoch.
        :param key: identifies a redelivered message; None for a message at QoS 0, which is dropped if a write
            fails.
        """
        if route not in self.windows:  # removed by a reload meanwhile
            self.meter.drop(DROPPED)
            return
        name = (route, _valid_text(work.topic))
        last = self.windows[route].last
        if last is not None and self._count_with_arrivals(name) >= last:
            self._write()  # completes the window; this message begins the next
        id = work.id or topic + received_mark(received)
        message = Gathered(name, _valid_text(id), _valid_text(work.input), received, key, is_again)
        if not self._has_room(message):
            self.meter.drop(DROPPED)
            return
        written = asyncio.get_running_loop().create_future()
        if not self._arrivals:  # one sync for all arrivals of this loop iteration
            asyncio.get_running_loop().call_soon(self._write)
        self._arrivals.append((message, written))
        await written

    async def complete(self, route: str) -> None:
        """Completes a route's open windows; returns when the change is on disk."""
        self._write()
        for name in [name for name in self._open if name[0] == route]:
            while not self._complete(name):
                await asyncio.sleep(self.limits.retry_s)

    def _has_room(self, message: Gathered) -> bool:
        name = message.window
        wanted = self.windows[name[0]]
        waiting = sum(one.size for one, _ in self._arrivals if one.window == name)
        window = self._open.get(name, _OpenWindow())
        others = sum(1 for other in self._open if other != name and other[0] == name[0])
        if (
            others < self.limits.most_open
            and (wanted.last is not None or self._count_with_arrivals(name) < wanted.most)
            and window.size + waiting + message.size <= self.limits.most_bytes
            and self._size + waiting + message.size <= self.limits.all_bytes
        ):
            return True
        self._write()  # opens the window that counts the drop
        if (begun := self._open.get(name)) is not None:
            begun.dropped += 1
            self._complete_if_full(name)
        return False

    def _count_with_arrivals(self, name: WindowName) -> int:
        """Number of messages of a window, including dropped messages and messages that wait to be written."""
        window = self._open.get(name, _OpenWindow())
        return window.count + window.dropped + sum(1 for one, _ in self._arrivals if one.window == name)

    def _write(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        arrivals = [(message, written) for message, written in arrivals if not written.done()]
        if not arrivals:
            return
        try:
            added = self.store.add([message for message, _ in arrivals])
        except JournalError:
            kept = []
            for message, written in arrivals:
                if message.key is None:  # QoS 0
                    self.meter.drop(DROPPED)
                    written.set_result(None)
                else:
                    kept.append((message, written))
            self._arrivals = kept + self._arrivals
            if self._arrivals:
                asyncio.get_running_loop().call_later(self.limits.retry_s, self._write)
            return
        for (message, written), is_new in zip(arrivals, added, strict=True):
            if is_new:
                window = self._window(message.window)
                window.count += 1
                window.size += message.size
                self._size += message.size
            written.set_result(None)
        for name in {message.window for message, _ in arrivals}:
            self._complete_if_full(name)

    def _window(self, name: WindowName, age_s: float = 0.0) -> _OpenWindow:
        if name not in self._open:
            self._open[name] = window = _OpenWindow()
            every_s = self.windows[name[0]].every_s
            if every_s is not None:
                loop = asyncio.get_running_loop()
                window.timer = loop.call_later(max(0.0, every_s - age_s), self._complete_or_retry, name)
        return self._open[name]

    def _complete_if_full(self, name: WindowName) -> None:
        window, last = self._open.get(name), self.windows[name[0]].last
        if window is not None and last is not None and window.count + window.dropped >= last:
            self._complete_or_retry(name)

    def _complete_or_retry(self, name: WindowName) -> None:
        if name in self._open and not self._complete(name):
            asyncio.get_running_loop().call_later(self.limits.retry_s, self._complete_or_retry, name)

    def _complete(self, name: WindowName) -> bool:
        """Completes a window. :return: whether the write succeeded; if not, the caller retries."""
        try:
            batch = self.store.complete(name)
        except JournalError:
            return False
        window = self._open.pop(name)
        if window.timer is not None:
            window.timer.cancel()
        if batch:
            self.admission.start(self._make_digest(name, batch, window.size, window.dropped))
        return True

    async def _make_digest(self, name: WindowName, batch: int, size: int, dropped: int) -> None:
        gathered = self.store.read(name, batch)
        damaged = self.store.count(name, batch) - len(gathered)
        dropped += damaged
        for _ in range(damaged):
            self.meter.drop(DAMAGED)
        try:
            if self.redact is not None:
                count = len(gathered)
                gathered = await self.redact(name[0], gathered)
                dropped += count - len(gathered)
            if gathered:
                await self.digester.digest(
                    *name, {"messages": _with_ids(gathered), "dropped": dropped}, batch
                )
        finally:
            self._size -= size
        self._forget_or_retry(name, batch)

    def _forget_or_retry(self, name: WindowName, batch: int) -> None:
        """Deletes a published window. If the node ends before that succeeds, the next start publishes the
        digest again."""
        in_flight = [key for held in self.admission if (key := held.key) is not None]
        try:
            self.store.forget(name, batch, in_flight)
        except JournalError:
            if not self._is_closed:
                loop = asyncio.get_running_loop()
                loop.call_later(self.limits.retry_s, self._forget_or_retry, name, batch)


def received_mark(received: float) -> str:
    """End of the id that the node gives to a message without one; ``received`` is in seconds since the
    epoch."""
    return f"@{_in_utc(received)}"


def _in_utc(received: float) -> str:
    at = datetime.fromtimestamp(received, UTC).isoformat(timespec="milliseconds")
    return f"{at.removesuffix('+00:00')}Z"


def _valid_text(text: str) -> str:
    """Replaces lone surrogates, which JSON escapes can produce and UTF-8 can't encode."""
    return text.encode("utf-8", "replace").decode()


def _with_ids(gathered: list[Gathered]) -> list[dict[str, str]]:
    """The messages as an input of ``summarize``. If several messages have the same id, the second gets an id
    such as ``id#2``, the third ``id#3``, and so on."""
    seen: Counter[str] = Counter()
    messages = []
    for one in gathered:
        seen[one.id] += 1
        id = one.id if seen[one.id] == 1 else f"{one.id}#{seen[one.id]}"
        messages.append({"id": id, "text": one.text, "at": _in_utc(one.received)})
    return messages
