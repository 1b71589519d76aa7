"""Liveness by progress: a node is alive while its network thread runs and its requests advance.

Pure. The event loop is not checked, since the caller runs in the event loop.
"""

from __future__ import annotations

import time

from edgeslm.errors import plural

NETWORK_SILENT_S = 60.0
"""Maximum time without progress of the network thread, in seconds; connecting takes 20 s or more."""
MARGIN_S = 30.0
"""Seconds added to ``longest_step_s``, to allow for a busy machine and for the interval between two
checks."""


class Liveness:
    """``longest_step_s`` is the longest time without progress on a healthy node."""

    def __init__(self, *, longest_step_s: float) -> None:
        self._limit_s = longest_step_s + MARGIN_S
        self._moved_at = time.monotonic()

    def fault(
        self, *, network_alive: bool, network_silent_s: float, unfinished: int, moved_at: float
    ) -> str | None:
        """Why the node is not alive, as a sentence; None if it is alive. Call it every few seconds.

        ``unfinished`` counts queued and running requests; ``moved_at`` is when a request last made progress
        (began, finished or produced a chunk), in monotonic seconds. For a request that arrives at an idle
        node, the time without progress is counted from the previous call of this method. The interval between
        calls must therefore be shorter than :data:`MARGIN_S`.
        """
        now = time.monotonic()
        self._moved_at = max(self._moved_at, now if not unfinished else moved_at)
        if not network_alive:
            return "The network thread has ended."
        if network_silent_s > NETWORK_SILENT_S:
            return f"The network thread has been stuck for {network_silent_s:.0f} s."
        if now - self._moved_at > self._limit_s:
            return (
                f"None of {plural(unfinished, 'unfinished request')} has moved for "
                f"{now - self._moved_at:.0f} s, which is longer than {self._limit_s:.0f} s, the most "
                "that one may take."
            )
        return None
