"""Messages that a route can't use: told in the log once an hour, and as an alert of ``health``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from edgeslm.errors import plural
from edgeslm.node.routes.route import Reason, Skip
from edgeslm.telemetry.log_lines import printable

log = logging.getLogger("edgeslm.node")

TOLD_S: Final = 3600.0
FAULTS: Final[frozenset[Reason]] = frozenset({"template", "not_text", "empty", "own_topic", "unredacted"})
"""Reasons that are mistakes of a sender or of the configuration; the others are the user's wish."""
_LONGEST_TOPIC: Final = 120


@dataclass(slots=True)
class _Seen:
    """Unusable messages of one route and reason since ``first_at``, and the last of them."""

    first_at: float
    count: int = 0
    last_at: float = 0.0
    topic: str = ""
    sentence: str = ""


class Unusable:
    """Counts the unusable messages of the last hour, by route and reason."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, Reason], _Seen] = {}

    def note(self, route: str, skip: Skip, topic: str) -> None:
        if skip.reason not in FAULTS:
            return
        key, now = (route, skip.reason), self._clock()
        seen = self._seen.get(key)
        if seen is None or now - seen.first_at > TOLD_S:
            seen = self._seen[key] = _Seen(now)
            log.warning(
                "route %s can't use a message on %s: %s; further ones are counted in health (dropped.%s)",
                route,
                printable(topic[:_LONGEST_TOPIC]),
                printable(skip.sentence),
                skip.reason,
            )
        seen.count, seen.last_at = seen.count + 1, now
        seen.topic, seen.sentence = topic[:_LONGEST_TOPIC], skip.sentence

    def last(self, route: str) -> str | None:
        """Topic and fault of the route's last unusable message in the last hour; None if there was none."""
        found = [seen for (name, _), seen in self._seen.items() if name == route and self._is_recent(seen)]
        if not found:
            return None
        seen = max(found, key=lambda seen: seen.last_at)
        return f"{printable(seen.topic)}: {printable(seen.sentence)}"

    def _is_recent(self, seen: _Seen) -> bool:
        return self._clock() - seen.first_at <= TOLD_S

    def alerts(self) -> Iterator[str]:
        """A sentence for each route and reason of the last hour."""
        for (route, _), seen in self._seen.items():
            if self._is_recent(seen):
                yield (
                    f"In the last hour route {route} couldn't use {plural(seen.count, 'message')}; the last "
                    f"came on {printable(seen.topic)}: {printable(seen.sentence)}."
                )
