"""Liveness, by progress: a node is alive when its network thread goes round and its work moves or is done.

Pure: it is told what happens and asked what to think of it. That the event loop turns needs no check, since
whoever asks runs in it.
"""

from __future__ import annotations

import time

NETWORK_SILENT_S = 60.0
"""How long the network thread may not go round: to connect takes it 20 s, a slow name server more."""
MARGIN_S = 30.0
"""What is added to the longest step, for a busy machine and the time between two looks."""


class Liveness:
    """``longest_step_s`` is how long the work of a healthy node may go without moving."""

    def __init__(self, *, longest_step_s: float) -> None:
        self._limit_s = longest_step_s + MARGIN_S
        self._moved_at = time.monotonic()

    def fault(
        self, *, network_alive: bool, network_silent_s: float, unfinished: int, moved_at: float
    ) -> str | None:
        """Why the node is not alive, in a sentence; None if it is. Ask every few seconds.

        ``unfinished`` counts the requests that wait or run; ``moved_at`` is when one of them went forward
        (begun, finished, a piece of an answer), in monotonic seconds. One that comes to an
        idle node counts from the last look at it, so the looks must be closer together than :data:`MARGIN_S`.
        """
        now = time.monotonic()
        self._moved_at = max(self._moved_at, now if not unfinished else moved_at)
        if not network_alive:
            return "The network thread has ended."
        if network_silent_s > NETWORK_SILENT_S:
            return f"The network thread has been stuck for {network_silent_s:.0f} s."
        if now - self._moved_at > self._limit_s:
            return (
                f"{unfinished} requests are unfinished and none has moved for {now - self._moved_at:.0f} s, "
                f"which is longer than {self._limit_s:.0f} s, the most that one may take."
            )
        return None
