"""Alerts: what somebody should look at, as sentences in ``health``.

Some conditions stand as long as they hold, others have happened and are told for an hour. Pure: knows no bus
and no daemon.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

TOLD_S = 3600.0
"""How long something that happened is told."""

_ROOM = (
    "requests may be among them. Raise its limits for queued messages (mosquitto: max_queued_messages and "
    "max_queued_bytes)."
)


class Growth:
    """How much somebody else's counter has grown; one that falls has begun again at zero.

    ``total`` is its growth since the first value, ``before`` that value: what had happened by then.
    """

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self._last: int | None = None
        self._steps: deque[tuple[float, int]] = deque(maxlen=1000)

    def see(self, value: int) -> int:
        """Takes the counter's value and returns by how much it has grown since the last."""
        if self._last is None:
            self.before = self._last = value
            return 0
        grown = value - self._last if value >= self._last else value
        self._last = value
        if grown:
            self.total += grown
            self._steps.append((time.monotonic(), grown))
        return grown

    def recent(self, within_s: float) -> int:
        """By how much it has grown lately."""
        since = time.monotonic() - within_s
        return sum(grown for at, grown in self._steps if at >= since)


class Alerts:
    """Keeps what happened long enough to be seen."""

    def __init__(self) -> None:
        self._dropped = Growth()
        self._sessions = Growth()
        self._sessions.see(0)
        self._looked_at: float | None = None

    @property
    def broker_dropped(self) -> int:
        """Messages that the broker has dropped since this node first saw its count."""
        return self._dropped.total

    def see_broker_dropped(self, payload: bytes) -> int:
        """Takes the broker's count of what it dropped, a whole number as text; by how much it has grown.

        Anything else is ignored: the topic is not ours.
        """
        if len(payload) > 20 or not payload.isdigit():
            return 0
        if self._looked_at is None:
            self._looked_at = time.monotonic()
        return self._dropped.see(int(payload))

    def sentences(self, *, session_lost: int = 0, standing: Iterable[str | None] = ()) -> list[str]:
        """All that is wrong now, or was within the hour; empty when all is well.

        ``session_lost`` counts how often the broker had forgotten the node's session. ``standing`` are
        sentences of others, None where there is nothing to say, such as that the disk is full.
        """
        self._sessions.see(session_lost)
        told = [sentence for sentence in standing if sentence]
        if dropped := self._dropped.recent(TOLD_S):
            told.append(
                f"In the last hour the broker dropped {dropped} messages, of any of its clients; {_ROOM}"
            )
        if self._dropped.before and self._has_just_looked():
            told.append(
                f"Before this node was there the broker had dropped {self._dropped.before} messages, of any "
                f"of its clients; {_ROOM}"
            )
        if lost := self._sessions.recent(TOLD_S):
            told.append(
                f"In the last hour the broker forgot the node's session {lost} times, and the requests in "
                "it. Let it keep sessions over a restart (mosquitto: persistence true, autosave_interval 1)."
            )
        return told

    def _has_just_looked(self) -> bool:
        return self._looked_at is not None and time.monotonic() - self._looked_at < TOLD_S
