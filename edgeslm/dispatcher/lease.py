"""The lease: leader election among the dispatchers of a pool, by a retained message.

Clocks of machines differ, so the standby measures by its own clock how long ago it last received the lease.
The duration of a retained lease counts from its arrival, even if the broker has stored it for a long time. If
two dispatchers believe that they lead, the broker decides: the pool has one session, and the last dispatcher
to connect owns it. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeslm.errors import InvalidRequest, ProtocolError
from edgeslm.protocol.codec import encode_document, parse_state
from edgeslm.protocol.strict_json import decode_text, parse_json

LONGEST_S = 3600.0
QUIET_S = 1.5
"""Seconds without a message after which the broker is assumed to have no retained lease."""
FORGOTTEN_S = 15.0
"""Maximum number of seconds that the leader gets to publish its lease again after the broker has lost the
lease."""
RETURN_S = 2.0
"""Seconds that the leader gets to reconnect after its connection broke. This is long enough, since
reconnecting after a TCP reset takes about a second."""


@dataclass(frozen=True, slots=True)
class Word:
    """A lease message: the id of the leader's term (None if the lease is free), the name of the leading
    dispatcher, and the seconds until the lease expires."""

    holder: str | None
    name: str
    for_s: float


def encode_lease(holder: str | None, name: str, for_s: float) -> bytes:
    """``holder`` identifies one term of the dispatcher ``name``; ``for_s`` are the seconds until the lease
    expires."""
    return encode_document({"holder": holder, "name": name, "for_s": for_s})


def parse_lease(payload: bytes) -> Word | None:
    """Parses a lease message; None if it is invalid or empty."""
    try:
        document = parse_json(decode_text(payload))
    except InvalidRequest:
        return None
    if not isinstance(document, dict):
        return None
    holder, name, for_s = document.get("holder"), document.get("name"), document.get("for_s")
    if not isinstance(for_s, int | float) or isinstance(for_s, bool) or not 0 < for_s <= LONGEST_S:
        return None
    return Word(holder if isinstance(holder, str) else None, name if isinstance(name, str) else "", for_s)


class Lease:
    """The lease as a standby sees it. ``name`` is the name of this dispatcher. ``is_first`` is true if this
    dispatcher hasn't led since its start. In this case, a lease with this dispatcher's name is from an
    earlier run and counts as free."""

    def __init__(self, name: str, *, is_first: bool) -> None:
        self._name = name
        self._is_first = is_first
        self._free_at = math.inf
        self._gone_at = math.inf
        self._quiet_s = QUIET_S

    def listen(self, now: float) -> None:
        """Call it after subscribing to the lease. A retained lease arrives at once, but a restarted broker
        may have lost the lease, so the leader gets time to reconnect."""
        self._free_at = min(self._free_at, now + self._quiet_s)

    def lose(self) -> None:
        """Call it when the connection breaks: until the next lease message arrives, the standby doesn't know
        who leads."""
        self._free_at = self._gone_at = math.inf

    def hear(self, payload: bytes, now: float) -> None:
        word = parse_lease(payload)
        if word is None or word.holder is None or (self._is_first and word.name == self._name):
            self._free_at, self._quiet_s = now, QUIET_S
        else:
            self._free_at = now + word.for_s
            self._quiet_s = max(QUIET_S, min(word.for_s, FORGOTTEN_S))

    def hear_state(self, payload: bytes, now: float) -> None:
        """Handles the state message of the active dispatcher, or its last will."""
        try:
            state = parse_state(payload).state
        except ProtocolError:
            return
        if state == "offline":
            self._gone_at = min(self._gone_at, now + RETURN_S)
        else:
            self._gone_at = math.inf

    def wait_s(self, now: float) -> float:
        """Seconds until this dispatcher may take the lease; 0 if it may do so now."""
        return max(0.0, min(self._free_at, self._gone_at) - now)
