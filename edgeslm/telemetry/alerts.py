"""Alerts about events: sentences in ``health`` for an hour after the broker lost messages or a session, or
while a CPU quota slows the node down.

Alerts of other modules last as long as the problem that they report.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.errors import plural
from edgeslm.hardware.board import quota_use
from edgeslm.protocol.delivery import Delivery, Subscription
from edgeslm.protocol.topics import BROKER_DROPPED
from edgeslm.telemetry.extension import Extension

TOLD_S = 3600.0
"""How long an alert stays in ``health``."""

_ROOM = (
    "requests may be among them. Raise its limits for queued messages (mosquitto: max_queued_messages and "
    "max_queued_bytes)."
)


class Growth:
    """Measures the growth of an external counter. A counter that falls is assumed to have been reset to 0.

    ``before`` is the counter's first value, ``total`` the growth since then.
    """

    def __init__(self) -> None:
        self.total = 0
        self.before = 0
        self._last: int | None = None
        self._steps: deque[tuple[float, int]] = deque(maxlen=1000)

    def see(self, value: int) -> int:
        """Records the counter's value. :return: the growth since the last call."""
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
        """Growth in the last ``within_s`` seconds."""
        since = time.monotonic() - within_s
        return sum(grown for at, grown in self._steps if at >= since)


_SUBSCRIPTIONS: Final = (Subscription(BROKER_DROPPED, qos=0, every_time=True, optional=True),)
"""``every_time`` requests the broker's retained count of dropped messages after each connect.

Only the retained count shows how many messages the broker dropped while the node was offline.
"""


class BrokerLosses(Extension):
    """Counts messages that the broker dropped, and how often it lost the node's session."""

    subscriptions = _SUBSCRIPTIONS

    def __init__(self) -> None:
        self.session_lost = 0
        """How often the broker lost the node's session."""
        self._dropped = Growth()
        self._sessions = Growth()
        self._sessions.see(0)
        self._looked_at: float | None = None

    @property
    def broker_dropped(self) -> int:
        """Number of messages that the broker has dropped since the node first received the broker's count."""
        return self._dropped.total

    def lose_session(self) -> None:
        self.session_lost += 1
        self._sessions.see(self.session_lost)

    def on_message(self, delivery: Delivery) -> bool:
        self.see_broker_dropped(delivery.payload)
        return False  # a route may read it too

    def health(self) -> Mapping[str, Any]:
        return {"broker_dropped": self.broker_dropped, "session_lost": self.session_lost}

    def see_broker_dropped(self, payload: bytes) -> int:
        """Records the broker's count of dropped messages. :return: the growth of the count.

        The payload is a decimal number. Other payloads are ignored, since the broker may use another format.
        """
        if len(payload) > 20 or not payload.isdigit():
            return 0
        if self._looked_at is None:
            self._looked_at = time.monotonic()
        return self._dropped.see(int(payload))

    @property
    def alerts(self) -> Sequence[str]:
        told = []
        if dropped := self._dropped.recent(TOLD_S):
            told.append(
                f"In the last hour the broker dropped {plural(dropped, 'message')}, of any of its "
                f"clients; {_ROOM}"
            )
        if self._dropped.before and self._has_just_looked():
            told.append(
                f"Before this node was there the broker had dropped "
                f"{plural(self._dropped.before, 'message')}, of any of its clients; {_ROOM}"
            )
        if lost := self._sessions.recent(TOLD_S):
            told.append(
                f"In the last hour the broker forgot the node's session {plural(lost, 'time')}, and the "
                "requests in it. Let it keep sessions over a restart (mosquitto: persistence true, "
                "autosave_interval 1)."
            )
        return told

    def _has_just_looked(self) -> bool:
        return self._looked_at is not None and time.monotonic() - self._looked_at < TOLD_S


THROTTLED: Final = 0.1
"""Share of throttled periods above which there is an alert."""
RECENT_S: Final = 300.0
"""Time in seconds that the alert about a CPU quota looks back."""


class CpuQuota(Extension):
    """Observes how often the CPU quota of a control group holds the node up.

    :param root: root folder of the system files.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cores = 0.0
        self._periods = Growth()
        self._throttled = Growth()

    def health(self) -> Mapping[str, Any]:
        if (use := quota_use(self._root)) is not None:
            self._cores = use.cores
            self._periods.see(use.periods)
            self._throttled.see(use.throttled)
        return {}

    @property
    def alerts(self) -> Sequence[str]:
        periods, throttled = self._periods.recent(RECENT_S), self._throttled.recent(RECENT_S)
        if throttled <= THROTTLED * periods:
            return ()
        return [
            f"In the last minutes a control group held the node up in {throttled / periods:.0%} of its "
            f"periods: it allows {self._cores:.1f} cores, and requests may miss their deadlines. Raise "
            "CPUQuota= of the unit or the container's limit, or take a smaller model."
        ]
