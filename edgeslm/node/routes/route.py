"""A route's rules: which messages become work, and which results are published.

The rules use no clock, no MQTT connection and no inference engine. Anybody may publish anything on a watched
topic, so an unusable message becomes a ``Skip``, with a reason for the metrics and a sentence for the log,
instead of an exception.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgeslm.config.fields import Rate
from edgeslm.config.route_sections import Route
from edgeslm.config.templates import Scope, make_condition, make_input, make_topic, read_scope
from edgeslm.errors import TemplateError
from edgeslm.messages import Result, Trace
from edgeslm.protocol.topic_filters import matches

Reason = Literal[
    "retained", "not_text", "empty", "condition", "rate", "template", "own_topic", "poisoned", "unredacted"
]
"""Why a message was skipped: it is a retained message (``retained``), isn't UTF-8 (``not_text``) or has no
text (``empty``); ``when`` is false (``condition``); the route has reached ``max_rate`` (``rate``); a template
doesn't fit the payload (``template``); the output topic belongs to the node (``own_topic``); the message
crashed or froze the node more than once (``poisoned``); or it couldn't be redacted (``unredacted``)."""

REMEMBERED_TOPICS = 1_000
"""Number of output topics whose last result is kept for ``on_change``; the least recently used topic is
dropped first."""

WORDS = 3
"""Minimum number of words of a text in a JSON payload that a digest reads without a template."""
LONGEST_ID = 256
"""Maximum number of characters of a message's own id; the rest is cut off."""
MOST_NOTED = 100_000
"""Maximum number of redacted messages in windows that a route knows, which take 6 MB; others are redacted
again."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A message that is ignored. ``sentence`` may quote a topic or the name of a field, but never the text of
    the message."""

    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class RouteWork:
    """A message for a task, and how to publish the result; without a task, the message is only ingested.
    ``id`` is the id in the payload, if any. ``source`` is the topic of the message, None for a window.
    ``trace`` is the trace context that is sent with the result."""

    task: str | None
    input: str
    topic: str
    qos: int
    retain: bool
    id: str | None = None
    source: str | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Unredacted:
    """The text of a message that a route takes, before it is redacted. Nothing else may get it."""

    text: str


class RouteReader:
    """One route of the configuration. ``base`` is the node's base topic.

    Call :meth:`consider` with each message, run the ``RouteWork`` that it returns, and publish the result
    only if :meth:`wants` is true. If it returns ``Unredacted``, redact the text and pass it to
    :meth:`read_redacted`, which returns the ``RouteWork``.
    """

    def __init__(self, route: Route, base: str) -> None:
        self.route = route
        self.name = route.name or route.task or ""
        self._base = base
        self._input = make_input(route.input) if route.input is not None else None
        self._topic = make_topic(route.to) if route.to is not None else None
        self._condition = make_condition(route.when) if route.when is not None else None
        self._rate = _RateLimit(route.max_rate) if route.max_rate is not None else None
        self._last: OrderedDict[str, bytes] = OrderedDict()
        self.counts: Counter[str] = Counter()
        """Number of messages that were read (``read``) or skipped, by reason."""
        self._redacted: set[int] = set()

    def matches(self, topic: str) -> bool:
        return matches(self.route.source, topic)

    def consider(
        self, topic: str, payload: bytes, retained: bool, now: float
    ) -> RouteWork | Unredacted | Skip:
        """The work for a message, its text to be redacted, or the reason to skip it. ``now`` is in seconds of
        any monotonic clock."""
        found = self._consider(topic, payload, retained, now)
        return found if isinstance(found, Unredacted) else self._count(found)

    def read_redacted(self, topic: str, text: str) -> RouteWork | Skip:
        """The work for a message that :meth:`consider` took, with its redacted text."""
        try:
            return self._count(self._work(read_scope(topic, text), text))
        except TemplateError as error:
            return self._count(Skip("template", str(error)))

    def note_redacted(self, id: str, text: str) -> None:
        """Notes a message that goes into a window redacted. ``id`` is empty if the node makes it."""
        if len(self._redacted) < MOST_NOTED:
            self._redacted.add(_hash(id, text))

    def take_redacted(self, id: str, text: str) -> bool:
        """Whether a message of a window was noted as redacted; its note is removed."""
        is_known = (key := _hash(id, text)) in self._redacted
        self._redacted.discard(key)
        return is_known

    def _count(self, found: RouteWork | Skip) -> RouteWork | Skip:
        self.counts[found.reason if isinstance(found, Skip) else "read"] += 1
        return found

    def _consider(
        self, topic: str, payload: bytes, retained: bool, now: float
    ) -> RouteWork | Unredacted | Skip:
        if retained and not self.route.accept_retained:
            return Skip("retained", "a retained message; set accept_retained to read those too")
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            return Skip("not_text", "the payload is not UTF-8 text")
        try:
            return self._admit(read_scope(topic, text), text, now)
        except TemplateError as error:
            return Skip("template", str(error))

    def _admit(self, scope: Scope, text: str, now: float) -> RouteWork | Unredacted | Skip:
        """``when`` and ``max_rate`` decide on the message as it came, since they keep nothing of it."""
        try:
            holds = self._condition is None or self._condition(scope)
        except TemplateError:
            if not self.route.redact:
                raise
            return Skip("template", "when doesn't fit the payload")  # the error may quote the payload
        if not holds:
            return Skip("condition", "the condition in when does not hold")
        if self._rate is not None and not self._rate.has_room(now):
            return Skip("rate", "more messages than max_rate allows")
        found = Unredacted(text) if self.route.redact else self._work(scope, text)
        if self._rate is not None and not isinstance(found, Skip):
            self._rate.take(now)
        return found

    def _work(self, scope: Scope, text: str) -> RouteWork | Skip:
        topic = self._topic(scope) if self._topic is not None else f"{self._base}/event/{self.name}"
        if topic.startswith(f"{self._base}/") and not topic.startswith(f"{self._base}/event/"):
            return Skip("own_topic", f"the topic {topic[:80]!r} belongs to the node itself")
        read = self._input(scope) if self._input is not None else self._without_template(scope, text)
        if not read.strip():
            return Skip("empty", "there is no text to read")
        return replace(self.work_on(topic), input=read, id=_id_of(scope.payload))

    def _without_template(self, scope: Scope, text: str) -> str:
        """The payload; for a window's digest, the only text of a JSON object: a digest groups messages by
        their words, and those of JSON are all alike."""
        if self.route.window is None or not isinstance(scope.payload, dict):
            return text
        values = [one for one in scope.payload.values() if isinstance(one, str) and len(one.split()) >= WORDS]
        return values[0] if len(values) == 1 else text

    def work_on(self, topic: str) -> RouteWork:
        """A ``RouteWork`` without input, whose result is published on ``topic``."""
        return RouteWork(self.route.task, "", topic, self.route.qos, self.route.retain)

    def wants(self, work: RouteWork, result: Result) -> bool:
        """Whether to publish ``result``. With ``on_change``, a result must differ from the last result on its
        topic."""
        if not self.route.on_change:
            return True
        digest = hashlib.blake2b(_content(result).encode(), digest_size=16).digest()
        same = self._last.pop(work.topic, None) == digest
        self._last[work.topic] = digest
        if len(self._last) > REMEMBERED_TOPICS:
            self._last.popitem(last=False)
        return not same


def _hash(id: str, text: str) -> int:
    """The same for a text with lone surrogates and for what a window keeps of it."""
    return hash((id.encode("utf-8", "replace"), text.encode("utf-8", "replace")))


def _id_of(payload: Any) -> str | None:
    """The message's own id: its ``id``, or that of its ``after``, as in Frigate's reviews."""
    whole = payload if isinstance(payload, dict) else {}
    after = whole.get("after")
    found = whole.get("id", after.get("id") if isinstance(after, dict) else None)
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    return str(found)[:LONGEST_ID] or None


def _content(result: Result) -> str:
    """The result's label, fields, text, vector or error code, without confidences, times and spans."""
    body: dict[str, Any] = dict(result.result or {})
    for key in ("label", "fields", "text", "vector"):
        if key in body:
            return json.dumps([result.status, key, body[key]], sort_keys=True, default=str)
    return json.dumps([result.status, result.error.code if result.error else None])


class _RateLimit:
    """Sliding window: at most ``count`` messages in any ``per_s`` seconds."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._taken: deque[float] = deque(maxlen=rate.count)

    def has_room(self, now: float) -> bool:
        return len(self._taken) < self._rate.count or now - self._taken[0] >= self._rate.per_s

    def take(self, now: float) -> None:
        self._taken.append(now)
