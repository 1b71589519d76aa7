"""Window aggregation (tumbling windows): a route's messages are gathered on disk until there is a digest.

A window begins with its first message. It is complete when it has as many as wanted, when its time is over,
or when a message says so; then its digest is made and published, and the next message begins another. A route
has one for each topic that it publishes to. What a window has no room for is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
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

MOST_BYTES: Final = 1 << 20
"""Of the messages of one window."""
ALL_BYTES: Final = 16 << 20
"""Of those of all windows together."""
MOST_OPEN: Final = 100
"""Windows that a route may have open at a time: topics to publish to come from payloads."""
RETRY_S: Final = 1.0
"""After which a disk that refused a write is tried again."""
DROPPED: Final = "window"
"""Why a message was dropped that a window had no room for."""


class Digester(Protocol):
    """Who makes and publishes the digest of a route's messages, those of ``batch`` for ``topic``."""

    async def digest(self, name: str, topic: str, messages: Mapping[str, Any], batch: int) -> None: ...


@dataclass(slots=True)
class _Open:
    """A window that is being filled. Of ``dropped`` nothing is known after a restart."""

    count: int = 0
    size: int = 0
    dropped: int = 0
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class WindowAggregator:
    """The windows of routes, by the routes' names."""

    store: Windows
    windows: Mapping[str, Window]
    admission: Admission
    digester: Digester
    meter: Meter
    _open: dict[WindowName, _Open] = field(default_factory=dict, init=False)
    _size: int = 0
    _arrivals: list[tuple[Gathered, asyncio.Future[None]]] = field(default_factory=list, init=False)

    def open(self) -> None:
        """Goes on with what the disk holds: makes the digests that are missing, sets the clocks."""
        for stored in self.store.stored():
            if stored.window[0] in self.windows:
                self._go_on(stored)
                continue
            log.warning("%d messages are of a route that is no more; they are forgotten", stored.count)
            with suppress(JournalError):
                self.store.forget_route(stored.window[0])

    def _go_on(self, stored: StoredMessage) -> None:
        if stored.batch:
            self._size += stored.size
            self.admission.start(self._make(stored.window, stored.batch, stored.size, 0))
            return
        window = self._begun(stored.window, stored.age_s)
        window.count, window.size = stored.count, stored.size
        self._size += stored.size
        self._look(stored.window)

    def take_up(self, windows: Mapping[str, Window]) -> None:
        """The windows of other routes. What is open goes on if its route still has a window, by the new rule;
        what was gathered for a route that has none is forgotten."""
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
            with suppress(JournalError):  # then the next start forgets it
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
            window = self._begun(name, stored.age_s)
            window.count, window.size, window.dropped = before.count, before.size, before.dropped
            self._look(name)

    def close(self) -> None:
        """From now on no window is completed by its clock."""
        for window in self._open.values():
            if window.timer is not None:
                window.timer.cancel()

    async def add(
        self, route: str, work: RouteWork, topic: str, received: float, key: bytes | None, *, is_again: bool
    ) -> None:
        """Returns when the message is on the disk, or dropped.

        :param topic: where it came from; ``received`` in wall-clock seconds.
        :param key: by which a redelivery is known; None: it came at QoS 0, and isn't waited for.
        """
        if route not in self.windows:  # it had one when the message came
            self.meter.drop(DROPPED)
            return
        name = (route, _whole(work.topic))
        last = self.windows[route].last
        if last is not None and self._coming(name) >= last:
            self._write()  # they are complete, and what comes now belongs to the next window
        at = datetime.fromtimestamp(received, UTC).isoformat(timespec="milliseconds")
        id = work.id or f"{topic}@{at.removesuffix('+00:00')}Z"
        message = Gathered(name, _whole(id), _whole(work.input), received, key, is_again)
        if not self._has_room(message):
            self.meter.drop(DROPPED)
            return
        written = asyncio.get_running_loop().create_future()
        if not self._arrivals:  # all that come in this turn of the loop are synced at once
            asyncio.get_running_loop().call_soon(self._write)
        self._arrivals.append((message, written))
        await written

    async def complete(self, route: str) -> None:
        """Completes the windows that a route has open; returns when that is on the disk."""
        self._write()
        for name in [name for name in self._open if name[0] == route]:
            while not self._complete(name):
                await asyncio.sleep(RETRY_S)

    def _has_room(self, message: Gathered) -> bool:
        name = message.window
        wanted = self.windows[name[0]]
        waiting = sum(one.size for one, _ in self._arrivals if one.window == name)
        window = self._open.get(name, _Open())
        others = sum(1 for other in self._open if other != name and other[0] == name[0])
        if (
            others < MOST_OPEN
            and (wanted.last is not None or self._coming(name) < wanted.most)
            and window.size + waiting + message.size <= MOST_BYTES
            and self._size + waiting + message.size <= ALL_BYTES
        ):
            return True
        self._write()  # so that the window is there that counts it
        if (begun := self._open.get(name)) is not None:
            begun.dropped += 1
            self._look(name)
        return False

    def _coming(self, name: WindowName) -> int:
        """Messages that a window has, those included that are about to be written."""
        window = self._open.get(name, _Open())
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
                if message.key is None:  # nobody knows of it but its sender
                    self.meter.drop(DROPPED)
                    written.set_result(None)
                else:
                    kept.append((message, written))
            self._arrivals = kept + self._arrivals
            if self._arrivals:
                asyncio.get_running_loop().call_later(RETRY_S, self._write)
            return
        for (message, written), is_new in zip(arrivals, added, strict=True):
            if is_new:
                window = self._begun(message.window)
                window.count += 1
                window.size += message.size
                self._size += message.size
            written.set_result(None)
        for name in {message.window for message, _ in arrivals}:
            self._look(name)

    def _begun(self, name: WindowName, age_s: float = 0.0) -> _Open:
        if name not in self._open:
            self._open[name] = window = _Open()
            every_s = self.windows[name[0]].every_s
            if every_s is not None:
                loop = asyncio.get_running_loop()
                window.timer = loop.call_later(max(0.0, every_s - age_s), self._complete_later, name)
        return self._open[name]

    def _look(self, name: WindowName) -> None:
        window, last = self._open.get(name), self.windows[name[0]].last
        if window is not None and last is not None and window.count + window.dropped >= last:
            self._complete_later(name)

    def _complete_later(self, name: WindowName) -> None:
        if name in self._open and not self._complete(name):
            asyncio.get_running_loop().call_later(RETRY_S, self._complete_later, name)

    def _complete(self, name: WindowName) -> bool:
        """False: the disk refuses it now."""
        try:
            batch = self.store.complete(name)
        except JournalError:
            return False
        window = self._open.pop(name)
        if window.timer is not None:
            window.timer.cancel()
        if batch:
            self.admission.start(self._make(name, batch, window.size, window.dropped))
        return True

    async def _make(self, name: WindowName, batch: int, size: int, dropped: int) -> None:
        gathered = self.store.read(name, batch)
        try:
            if gathered:
                await self.digester.digest(*name, {"messages": _named(gathered), "dropped": dropped}, batch)
        finally:
            self._size -= size
        with suppress(JournalError):  # then it is published again after the next start
            self.store.forget(name, batch)


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which a template may make of JSON and nobody can write down."""
    return text.encode("utf-8", "replace").decode()


def _named(gathered: list[Gathered]) -> list[dict[str, str]]:
    """The messages as an input of ``summarize``. What came at the same millisecond is told apart."""
    seen: Counter[str] = Counter()
    messages = []
    for one in gathered:
        seen[one.id] += 1
        at = datetime.fromtimestamp(one.received, UTC).isoformat(timespec="milliseconds")
        id = one.id if seen[one.id] == 1 else f"{one.id}#{seen[one.id]}"
        messages.append({"id": id, "text": one.text, "at": f"{at.removesuffix('+00:00')}Z"})
    return messages
