"""The lease, leader election among the dispatchers of a pool: retained, as one who waits hears it.

The clocks of two machines differ, so no time of the other's is looked at: only how long ago, by the clock of
the one who waits, the lease was last heard. A lease that the broker had kept counts from then, however old it
is. The broker has the last word: the pool has one session there, and whoever connected last has it. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeslm.errors import InvalidRequest, ProtocolError
from edgeslm.protocol.codec import encode_document, parse_json, parse_state
from edgeslm.protocol.strict_json import decode_text

LONGEST_S = 3600.0
QUIET_S = 1.5
"""After so long without a word the broker has no lease to tell of."""
FORGOTTEN_S = 15.0
"""How long at most one who held a lease that the broker has forgotten has to say it again."""
RETURN_S = 2.0
"""How long one whose connection broke has to come back: a reset costs a second."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a lease says: who holds it, or nobody any more, and for how many seconds without another word."""

    holder: str | None
    name: str
    for_s: float


def encode_lease(holder: str | None, name: str, for_s: float) -> bytes:
    """``holder`` is of one run of a dispatcher, ``name`` of all of them."""
    return encode_document({"holder": holder, "name": name, "for_s": for_s})


def parse_lease(payload: bytes) -> Word | None:
    """None for what is no lease, such as one that was taken away."""
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
    """``name`` is this dispatcher's; ``is_first`` as long as it has not been at work since its start: then a
    lease by its name is of the run before, and need not run out."""

    def __init__(self, name: str, *, is_first: bool) -> None:
        self._name = name
        self._is_first = is_first
        self._free_at = math.inf
        self._gone_at = math.inf
        self._quiet_s = QUIET_S

    def listen(self, now: float) -> None:
        """The broker has been asked to tell: what it keeps comes at once. One that was started anew may have
        forgotten it; who held it holds what the broker has forgotten too, and gets its time to come back."""
        self._free_at = min(self._free_at, now + self._quiet_s)

    def lose(self) -> None:
        """There is no connection: nothing is known any more."""
        self._free_at = self._gone_at = math.inf

    def hear(self, payload: bytes, now: float) -> None:
        word = parse_lease(payload)
        if word is None or word.holder is None or (self._is_first and word.name == self._name):
            self._free_at, self._quiet_s = now, QUIET_S
        else:
            self._free_at = now + word.for_s
            self._quiet_s = max(QUIET_S, min(word.for_s, FORGOTTEN_S))

    def hear_state(self, payload: bytes, now: float) -> None:
        """What the dispatcher at work says of itself, or the broker in its place."""
        try:
            state = parse_state(payload).state
        except ProtocolError:
            return
        if state == "offline":
            self._gone_at = min(self._gone_at, now + RETURN_S)
        else:
            self._gone_at = math.inf

    def wait_s(self, now: float) -> float:
        """Seconds until it may be taken, as far as is known now; 0 if it may be."""
        return max(0.0, min(self._free_at, self._gone_at) - now)
