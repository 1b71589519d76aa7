"""Connections of a web server. Those of strangers, which have sent no valid token or session yet, have limits
of their own, so that they never keep others out.

A stranger's connection is closed after a few seconds. Above a limit, the oldest one of the busiest address is
closed, never the new one: a client with a token sends it at once, and is a stranger for some milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_STRANGERS: Final = 128
"""Maximum number of strangers' connections."""
MOST_OF_ADDRESS: Final = 64
"""Maximum number of strangers' connections from one address, or one IPv6 network of 64 bits; programs open as
many at once."""
STRANGER_S: Final = 5.0
"""Time until a connection must have sent a request with a valid token or session, in seconds; a request that
runs gets as much again."""


class Connection(H11Protocol):
    """A connection, in ``state`` of the scope of its requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app_state = {**self.app_state, "connection": self}
        self.is_stranger = True
        self.origin = ""
        self.since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.origin = _origin_of(self.client[0] if self.client else "")
        self.since = self.loop.time()
        self._timer = self.loop.call_later(STRANGER_S, self._time_out)
        if (surplus := find_surplus(self._others())) is not None:
            surplus.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def admit(self, most: int) -> bool:
        """Makes this a known client's connection; false if there are ``most`` of these."""
        if not self.is_stranger:
            return True
        if sum(not one.is_stranger for one in self._others()) >= most:
            return False
        self.is_stranger = False
        self._forget_timer()
        return True

    def drop(self) -> None:
        """Closes the connection at once."""
        self.is_stranger = False
        self._forget_timer()
        self.connections.discard(self)
        self.transport.abort()

    def _others(self) -> list[Connection]:
        return [one for one in self.connections if isinstance(one, Connection)]

    def _time_out(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle or self.loop.time() - self.since > STRANGER_S * 1.5:
            self.drop()
        else:
            self._timer = self.loop.call_later(STRANGER_S, self._time_out)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def find_surplus(connections: Iterable[Connection]) -> Connection | None:
    """The stranger's connection to close, if there are too many."""
    strangers = [one for one in connections if one.is_stranger]
    by_origin = Counter(one.origin for one in strangers)
    if not by_origin:
        return None
    origin, count = by_origin.most_common(1)[0]
    if count <= MOST_OF_ADDRESS and len(strangers) <= MOST_STRANGERS:
        return None
    return min((one for one in strangers if one.origin == origin), key=lambda one: one.since)


def admit(scope: Scope, most: int) -> bool:
    """Notes that a request's token or session is valid: its connection is no longer a stranger's. False if
    clients have ``most`` connections already."""
    connection = scope["state"].get("connection")
    return not isinstance(connection, Connection) or connection.admit(most)


def _origin_of(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return str(int(found) >> 64)
    return address
