"""Redactor: replaces personal and secret data in the messages of a route, before anything else gets their
texts.

A message that can't be redacted is never passed on: it is reported on ``<base>/dead`` and skipped.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edgeslm.config.route_sections import EXACT_KINDS, Route
from edgeslm.errors import Busy, InternalError, InvalidRequest, ModelUnavailable, NoMemory, RequestError
from edgeslm.messages import Attempt, ErrorBody, Request
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.routes.route import Skip, Unredacted
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service

if TYPE_CHECKING:
    from edgeslm.redaction.patterns import Span
    from edgeslm.redaction.payload import Payload

log = logging.getLogger("edgeslm.node")

LONG: Final = 16_384
"""Number of characters from which a text is searched in a thread, so that other messages go on."""
PAUSES_S: Sequence[float] = (0.5, 2.0, 5.0, 15.0)
"""Pauses between the attempts to ask a model that can't be used now."""
_JOINT: Final = "\n\n"
_PASSING: Final = (Busy, ModelUnavailable, NoMemory)
_Message = Mapping[str, Any]
T = TypeVar("T")


@dataclass(slots=True)
class Redactor:
    """``publisher`` reports the messages that can't be redacted; ``service`` has the models."""

    publisher: Publisher
    service: Service

    async def redact(
        self, route: Route, delivery: Delivery, message: Unredacted, attempt: Attempt
    ) -> str | Skip:
        """The redacted text, or why the message is skipped. ``attempt`` records when the text is searched,
        so that a message that freezes the node isn't read forever."""
        try:
            with suppress(Busy):  # the journal is full: go on unmarked
                attempt.compute()
            return await redacted(self.service, route, message.text, attempt)
        except MemoryError:
            raise
        except Exception as failure:
            error = failure if isinstance(failure, RequestError) else InternalError("redaction failed")
            request = Request(route.task or "", "", secrets.token_hex(8), delivery.topic)
            await self.publisher.report_dead(request, ErrorBody.of(error))
            return Skip("unredacted", f"it can't be redacted: {error}")
        finally:
            attempt.wait()

    async def redact_window(self, route: Route, window: Mapping[str, Any]) -> dict[str, Any]:
        """The messages of a window, redacted: those that came before the route had ``redact`` are on the disk
        as they were. Messages that can't be redacted are left out, and count as dropped. Waits for a model
        that can't be used now."""
        messages = window["messages"]
        read = await asyncio.to_thread(_read_messages, messages)
        payloads = [payload for _, *pair in read for payload in pair]
        names: list[list[Span]] | None = None
        while names is None:
            try:
                names = await _find_names(self.service, route, payloads, None)
            except _PASSING:
                continue
            except RequestError as error:
                log.error("a window of route %s can't be redacted: %s", route.name or route.task, error)
                read, names = [], []
        found = iter(names)

        def redact_all() -> list[dict[str, Any]]:
            exact = exact_kinds(route)
            return [
                {**one, "id": id.redact(exact, next(found)), "text": text.redact(exact, next(found))}
                for one, id, text in read
            ]

        kept = await asyncio.to_thread(redact_all)
        return {**window, "messages": kept, "dropped": window["dropped"] + len(messages) - len(kept)}


async def redacted(service: Service, route: Route, text: str, attempt: Attempt) -> str:
    """A message of the route, redacted. :raises RequestError: it can't be."""
    payload = await _search(len(text), lambda: read_payload(text))
    (found,) = await _find_names(service, route, [payload], attempt)
    return await _search(len(text), lambda: payload.redact(exact_kinds(route), found))


async def _find_names(
    service: Service, route: Route, payloads: Sequence[Payload], attempt: Attempt | None
) -> list[list[Span]]:
    """For each payload, what the route's model finds in it. :raises RequestError: the model can't be used, or
    it failed."""
    if route.redact_model is None or not route.named_kinds:
        return [[] for _ in payloads]
    texts = [payload.for_model() for payload in payloads]
    for pause_s in (*PAUSES_S, None):
        try:
            spans = await service.deployment.find_spans(
                route.redact_model, _JOINT.join(texts), route.named_kinds, route.redact_threshold, attempt
            )
        except _PASSING as error:
            if pause_s is None:
                raise
            log.warning("route %s can't redact a message yet: %s", route.name or route.task, error)
            await asyncio.sleep(pause_s)
        else:
            break
    return spread(spans, texts)


def exact_kinds(route: Route) -> list[str]:
    """The kinds of ``redact`` that have an exact form."""
    return [kind for kind in route.redact if kind in EXACT_KINDS]


def read_payload(text: str) -> Payload:
    """:raises InvalidRequest: JSON that is nested too deeply."""
    from edgeslm.redaction.payload import Payload  # its expressions take memory

    return Payload(text)


def _read_messages(messages: Sequence[_Message]) -> list[tuple[_Message, Payload, Payload]]:
    """Messages of a window, with id and text; without those that are nested too deeply."""
    found = []
    for message in messages:
        with suppress(InvalidRequest):
            found.append((message, read_payload(message["id"]), read_payload(message["text"])))
    return found


async def _search(length: int, search: Callable[[], T]) -> T:
    return search() if length < LONG else await asyncio.to_thread(search)


def spread(spans: Iterable[Span], texts: Sequence[str]) -> list[list[Span]]:
    """The spans in texts that were joined by ``_JOINT``, as spans of each text; one that is in several texts
    is in each of them."""
    starts = [0, *accumulate(len(text) + len(_JOINT) for text in texts)]
    found: list[list[Span]] = [[] for _ in texts]
    for span in spans:
        for place in range(bisect_right(starts, span.start) - 1, bisect_left(starts, span.end)):
            start, end = starts[place], starts[place] + len(texts[place])
            first, last = max(span.start, start) - start, min(span.end, end) - start
            if first < last:
                found[place].append(span._replace(start=first, end=last))
    return found
