"""Console feed: the node's last requests, and figures for the charts.

Each request is one row of a ring buffer. Texts of requests and results are kept only if ``keep_texts`` is
set.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from edgeslm.messages import Request, Result
from edgeslm.storage.feedback_store import Correction
from edgeslm.telemetry.health import quantiles

ROWS = 200
"""Number of requests that are kept."""
MOST_LATENCIES = 1000
"""Maximum number of latencies kept per interval of the charts; further latencies are ignored."""
TEXT_CHARACTERS = 4000
"""Maximum length, in characters, of a text that is kept; the rest is cut off."""


@dataclass(slots=True)
class _FeedRow:
    number: int
    at: float
    task: str
    topic: str
    status: str = "waiting"
    total_ms: float | None = None
    queue_ms: float | None = None
    tokens: int | None = None
    model: str | None = None
    input: str | None = None
    output: str | None = None

    def shown(self) -> dict[str, Any]:
        """The row as sent to the console, without the texts."""
        return {
            "n": self.number,
            "at": round(self.at, 3),
            "task": self.task,
            "topic": self.topic,
            "status": self.status,
            "ms": self.total_ms,
            "wait": self.queue_ms,
            "tokens": self.tokens,
            "model": self.model,
        }


class Seen:
    """Records the progress of one request in the feed."""

    __slots__ = ("_feed", "_row")

    def __init__(self, feed: Feed, row: _FeedRow) -> None:
        self._feed = feed
        self._row = row

    def begun(self) -> None:
        """Called when the request starts to run."""
        self._feed.begin(self._row)

    def ended(self, result: Result | None) -> None:
        """Called when the request has ended; ``result`` is None if the request was cancelled because the node
        stopped."""
        self._feed.end(self._row, result)


class OnRequest(Protocol):
    """Gets each request as it comes."""

    def __call__(self, request: Request, /) -> None: ...


class OnCorrection(Protocol):
    """Gets each correction over MQTT, once it is stored."""

    def __call__(self, correction: Correction, /) -> None: ...


class Feed:
    """Last requests of a node; if ``keep_texts`` is set, also the beginnings of their inputs and results."""

    def __init__(
        self,
        *,
        keep_texts: bool = False,
        on_request: OnRequest | None = None,
        on_correction: OnCorrection | None = None,
    ) -> None:
        self._keep_texts = keep_texts
        self._on_request = on_request
        self._on_correction = on_correction
        self._rows: deque[_FeedRow] = deque(maxlen=ROWS)
        self._changed: dict[int, _FeedRow] = {}
        self._number = 0
        self._latencies_ms: list[float] = []
        self._answered = 0
        self._errors = 0

    def watch(self, request: Request) -> Seen:
        """Adds a row for a request.

        :return: an object whose methods must be called when the request begins and ends.
        """
        self._number += 1
        row = _FeedRow(self._number, time.time(), request.task[:100], request.reply_to[:300])
        if self._keep_texts:
            row.input = _beginning(request.input)
        if self._on_request is not None:
            self._on_request(request)
        self._rows.append(row)
        self._note(row)
        return Seen(self, row)

    def correct(self, correction: Correction) -> None:
        """Called when a correction over MQTT is stored."""
        if self._on_correction is not None:
            self._on_correction(correction)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, the oldest first."""
        return [row.shown() for row in self._rows]

    def take_changed(self) -> list[dict[str, Any]]:
        """Rows that changed since the last call, but at most the last :data:`ROWS` of them."""
        changed, self._changed = self._changed, {}
        return [row.shown() for row in changed.values()]

    def take_moment(self) -> dict[str, Any]:
        """A dict with values since the last call: the number of answers (``answered``), the number of error
        results (``errors``), and two quantiles of latency in milliseconds (``p50``, ``p95``)."""
        latencies, self._latencies_ms = self._latencies_ms, []
        found = quantiles(latencies)
        moment = {
            "answered": self._answered,
            "errors": self._errors,
            "p50": found.get("p50"),
            "p95": found.get("p95"),
        }
        self._answered = self._errors = 0
        return moment

    def text(self, number: int) -> tuple[str | None, str | None]:
        """Input and result of the request with this number; either is None if it was not kept."""
        row = next((row for row in self._rows if row.number == number), None)
        return (row.input, row.output) if row is not None else (None, None)

    def begin(self, row: _FeedRow) -> None:
        row.status = "running"
        self._note(row)

    def end(self, row: _FeedRow, result: Result | None) -> None:
        if result is None:
            row.status = "broken off"
        else:
            row.status = result.status if result.error is None else result.error.code
            timings = result.timings_ms
            if timings:
                row.total_ms = round(timings.get("total", 0.0), 1)
                row.queue_ms = round(timings.get("queue", 0.0), 1)
            row.tokens = sum(result.usage.values()) or None
            row.model = result.model
            self._errors += result.status == "error"
            self._answered += result.status != "error"
            is_timed = result.status != "error" and row.total_ms is not None
            if is_timed and len(self._latencies_ms) < MOST_LATENCIES:
                self._latencies_ms.append(row.total_ms or 0.0)
            if self._keep_texts:
                row.output = _beginning(result.error.message if result.error else result.result)
        self._note(row)

    def _note(self, row: _FeedRow) -> None:
        self._changed.pop(row.number, None)
        self._changed[row.number] = row
        if len(self._changed) > ROWS:
            del self._changed[next(iter(self._changed))]


def _beginning(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + " …"
