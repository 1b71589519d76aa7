"""The router: passes each message to its routes, which ingest it, answer it or add it to a window."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from edgeslm.config.fields import Window
from edgeslm.config.loader import Config
from edgeslm.errors import BrokerError, Busy, InvalidRequest, Poisoned, RequestError
from edgeslm.messages import ErrorBody, Request, Turn
from edgeslm.mqtt.client import NeverFits, Subscription
from edgeslm.mqtt.publisher import too_large
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.backend import NodeBackend
from edgeslm.node.deduplication import SingleFlight
from edgeslm.node.in_flight import Admission, InFlight
from edgeslm.node.routes.ingest import Ingest
from edgeslm.node.routes.redactor import PASSING, PAUSES_S, Redactor
from edgeslm.node.routes.route import RouteReader, RouteWork, Skip, Unredacted
from edgeslm.node.routes.unusable import Unusable
from edgeslm.node.routes.windows import WindowAggregator, received_mark
from edgeslm.protocol.codec import Topics
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.protocol.topic_filters import matches, subscription_identifier
from edgeslm.storage.journal import Journal, reader_key
from edgeslm.storage.window_store import Gathered, Windows

log = logging.getLogger("edgeslm.node")


class Router:
    """Handles the messages that the routes of ``config`` watch."""

    def __init__(
        self, config: Config, backend: NodeBackend, admission: Admission, journal: Journal, windows: Windows
    ) -> None:
        self._packet_bytes = config.limits.packet_bytes
        self._admission = admission
        self._publisher = backend.publisher
        self._journal = journal
        self._meter, self._tracer = backend.observers.meter, backend.observers.tracer
        self._ingest = Ingest(backend.service, self._meter)
        self._redactor = Redactor(backend.service)
        self.unusable = Unusable()
        self._single_flight = SingleFlight()
        self._queues: dict[str, TicketQueue] = defaultdict(TicketQueue)
        """Route name -> queue that keeps the order of messages for windows."""
        self._base = Topics(config.node, config.prefix).base
        self._routes = [RouteReader(route, self._base) for route in config.routes]
        self._answers = RouteAnswers(self._routes, backend, journal)
        self._aggregator = WindowAggregator(
            windows, self._windows, admission, self._answers, self._meter, redact=self._redact_old
        )

    @property
    def subscriptions(self) -> list[Subscription]:
        """One subscription per filter, with retained messages if a route accepts them."""
        wanted: dict[str, bool] = {}
        for route in self._routes:
            source, window = route.route.source, route.route.window
            wanted[source] = wanted.get(source, False) or route.route.accept_retained
            if window is not None and window.on is not None:
                wanted.setdefault(window.on, False)
        return [
            Subscription(source, retained=retained, identifier=subscription_identifier(source))
            for source, retained in wanted.items()
        ]

    @property
    def _windows(self) -> dict[str, Window]:
        return {route.name: route.route.window for route in self._routes if route.route.window is not None}

    def take_up(self, config: Config) -> None:
        """Switches to the routes of ``config``; unchanged routes keep their rate limits and last results."""
        before = self._routes
        self._routes = [
            next((reader for reader in before if reader.route == route), None)
            or RouteReader(route, self._base)
            for route in config.routes
        ]
        self._answers.routes = self._routes
        self._aggregator.take_up(self._windows)

    def describe(self) -> list[dict[str, Any]]:
        """The routes with the messages since the node's start, for people."""
        return [
            {
                "name": reader.name,
                "from": reader.route.source,
                "task": reader.route.task,
                "counts": dict(reader.counts),
                "unusable": self.unusable.last(reader.name),
            }
            for reader in self._routes
        ]

    def open(self) -> None:
        """Restores the windows from disk."""
        self._aggregator.open()

    def close(self) -> None:
        self._aggregator.close()

    def forget_key(self, key: bytes) -> None:
        """Drops a message's deduplication key in the windows, since its packet identifier was reused for
        another message. :raises JournalError: the journal can't be written."""
        for route in self._routes:
            if route.route.window is not None:
                self._aggregator.store.forget_key(reader_key(key, route.name))

    def work_on(self, held: InFlight) -> list[Coroutine[Any, Any, None]]:
        """The coroutines that handle a message: one for each route that reads the message, and one for each
        route whose windows the message completes."""
        delivery = held.delivery
        work = [self._serve(route, held) for route in self._routes if brings(delivery, route.route.source)]
        for route in self._routes:
            window = route.route.window
            if window is None or window.on is None or delivery.retain:  # the broker repeats those
                continue
            if brings(delivery, window.on):
                work.append(self._complete(route.name, held))
        return work

    async def _complete(self, name: str, held: InFlight) -> None:
        async with self._admission.hold(held):
            with self._queues[name].place() as place:
                await place.reach()
                await self._aggregator.complete(name)

    async def _serve(self, route: RouteReader, held: InFlight) -> None:
        async with self._admission.hold(held):
            await self._read(route, held)

    async def _read(self, route: RouteReader, held: InFlight) -> None:
        delivery = held.delivery
        if delivery.size > self._packet_bytes:
            self._meter.drop("too_large")
            route.counts["too_large"] += 1
            return
        key = reader_key(held.key, route.name) if held.key is not None else None
        taken = await self._consider(route, delivery, key)
        if isinstance(taken, Skip):
            self._skip(route, taken, delivery.topic)
            return
        if held.qos0 and held.refusal is not None:
            self._meter.drop("busy")
            return
        if (running := self._single_flight.running(key)) is not None:
            await asyncio.shield(running)
            return
        with self._single_flight.flight(key), ExitStack() as stack:
            place = None
            if route.route.window is not None:  # redaction and ingest of some messages take longer
                place = stack.enter_context(self._queues[route.name].place())
            work: RouteWork | Skip
            if isinstance(taken, Unredacted):
                work = await self._redacted(route, taken, delivery, key)
            else:
                work = taken
            if isinstance(work, Skip):
                self._skip(route, work, delivery.topic)
                return
            work = replace(work, source=delivery.topic, trace=self._tracer.trace(delivery.traceparent))
            await self._ingest.keep(route.route, delivery, work.input, held.key, work.id)
            again = delivery.dup
            if place is not None:
                await place.reach()
                place.leave()  # add() takes its place in the window before it first waits
                received = time.time() - (time.monotonic() - delivery.received_at)
                if isinstance(taken, Unredacted):
                    route.note_redacted(work.id or "", work.input)
                await self._aggregator.add(route.name, work, delivery.topic, received, key, is_again=again)
            elif work.task is not None:
                waits, at = not held.qos0, delivery.received_at
                await self._answers.answer(route, work, work.input, key, at, is_again=again, waits=waits)

    def _skip(self, route: RouteReader, skip: Skip, topic: str) -> None:
        self._meter.drop(skip.reason)
        self.unusable.note(route.name, skip, topic)
        log.debug("route %s skipped a message: %s", route.name, skip.sentence)

    async def _consider(
        self, route: RouteReader, delivery: Delivery, key: bytes | None
    ) -> RouteWork | Unredacted | Skip:
        """Renders the route's templates for a message. If earlier attempts crashed or froze the node too
        often, the message is skipped."""
        attempts = self._attempts(delivery, key, "templates")
        try:
            attempts.compute()
        except Poisoned as error:
            request = Request(route.route.task or "", "", secrets.token_hex(8), delivery.topic)
            await self._publisher.report_dead(request, ErrorBody.of(error))
            route.counts["poisoned"] += 1
            return Skip("poisoned", str(error))
        except Busy:  # the journal is full: go on unmarked, since nobody would send the message again
            pass
        try:
            return route.consider(delivery.topic, delivery.payload, delivery.retain, delivery.received_at)
        finally:
            attempts.wait()

    async def _redacted(
        self, route: RouteReader, message: Unredacted, delivery: Delivery, key: bytes | None
    ) -> RouteWork | Skip:
        """Redacts a message, then renders the route's templates for it. A message that can't be redacted is
        reported on ``<base>/dead`` and skipped."""
        attempts = self._attempts(delivery, key, "redaction")
        try:
            text = await self._redactor.redact(route.route, message.text, attempts)
        except RequestError as error:
            return await self._unredacted(route, error, delivery.topic)
        return route.read_redacted(delivery.topic, text)

    async def _unredacted(self, route: RouteReader, error: RequestError, topic: str) -> Skip:
        request = Request(route.route.task or "", "", secrets.token_hex(8), topic)
        await self._publisher.report_dead(request, ErrorBody.of(error))
        route.counts["unredacted"] += 1
        return Skip("unredacted", f"it can't be redacted: {error}")

    async def _redact_old(self, name: str, messages: Sequence[Gathered]) -> list[Gathered]:
        """The messages of a window, with those redacted that the route hasn't redacted with its present
        settings since the node's start. Messages that can't be redacted are left out; for a model that can't
        be used now, the window waits."""
        kept = []
        for message in messages:
            if (redacted := await self._redact_row(name, message)) is not None:
                kept.append(redacted)
        return kept

    async def _redact_row(self, name: str, message: Gathered) -> Gathered | None:
        while True:
            route = next((one for one in self._routes if one.name == name), None)
            if route is None or not route.route.redact:
                return message
            is_own_id = message.id.endswith(received_mark(message.received))  # made by the node
            if route.take_redacted("" if is_own_id else message.id, message.text):
                return message
            try:
                text = await self._redactor.redact(route.route, message.text, Turn())
                id = message.id if is_own_id else await self._redactor.redact(route.route, message.id, Turn())
                return replace(message, id=id, text=text)
            except PASSING as error:
                skip = Skip("unredacted", f"its window waits to be redacted: {error}")
                self.unusable.note(name, skip, message.window[1])
                await asyncio.sleep(PAUSES_S[-1])
            except RequestError as error:
                self._skip(route, await self._unredacted(route, error, message.window[1]), message.window[1])
                return None

    def _attempts(self, delivery: Delivery, key: bytes | None, step: str) -> AttemptLog:
        key = None if key is None else reader_key(key, step)
        known = self._journal.find(key) if key is not None and delivery.dup else None
        return AttemptLog(self._journal, key, known)


@dataclass(slots=True)
class RouteAnswers:
    """Runs the tasks of ``routes`` on messages and windows, and publishes the results."""

    routes: Sequence[RouteReader]
    backend: NodeBackend
    journal: Journal

    async def answer(
        self,
        route: RouteReader,
        work: RouteWork,
        read: str | Mapping[str, Any],
        key: bytes | None,
        received_at: float,
        *,
        is_again: bool,
        waits: bool,
    ) -> None:
        """Runs the route's task on a message or window. Returns when the broker has acknowledged the result,
        or the result needn't be published.

        :param key: journal key.
        :param is_again: whether to look up ``key`` in the journal first.
        :param waits: whether to retry while the node is busy.
        """
        known = self.journal.find(key) if key is not None and is_again else None
        payload = known.result if known is not None else None
        if payload is None:
            id, task = secrets.token_hex(8), work.task or ""
            request = Request(
                task, read, id, work.topic, received_at=received_at, trace=work.trace, source=work.source
            )
            attempt = AttemptLog(self.journal, key, known)
            while True:
                result, payload = await self.backend.answer(request, attempt)
                self.backend.note("route", request, result, None)
                if result.error is None or result.error.code != "busy" or not waits:
                    break
                # Nobody would send a route's message again: it waits, unacknowledged.
                await asyncio.sleep((result.error.retry_after_ms or 0) / 1000)
            if result.error is not None and result.error.code == "poisoned":
                await self.backend.publisher.report_dead(request, result.error)
            if not route.wants(work, result):
                return
        await self._publish(route, work, payload)

    async def digest(self, name: str, topic: str, messages: Mapping[str, Any], batch: int) -> None:
        """Runs the route's task on a complete window and publishes the result."""
        route = next((route for route in self.routes if route.name == name), None)
        if route is None:  # removed by a reload
            return
        work = replace(route.work_on(topic), trace=self.backend.observers.tracer.trace(None))
        key = reader_key(b"window", f"{name} {batch} {topic}")
        await self.answer(route, work, messages, key, time.monotonic(), is_again=True, waits=True)

    async def _publish(self, route: RouteReader, work: RouteWork, payload: bytes) -> None:
        try:
            header = work.trace.header if work.trace else None
            message = OutgoingMessage(work.topic, payload, work.qos, work.retain, traceparent=header)
            try:
                await self.backend.publisher.publish(message)
            except NeverFits as error:
                log.warning("a result of route %s is too large to be sent", route.name)
                refused = too_large(secrets.token_hex(8), work.task or "", error)
                await self.backend.publisher.publish(replace(message, payload=refused))
        except BrokerError as error:
            log.warning("a result of route %s could not be sent: %s", route.name, error)
            lost = Request(work.task or "", "", id_of(payload), work.topic)
            await self.backend.publisher.report_dead(lost, ErrorBody.of(InvalidRequest(str(error))))


def id_of(payload: bytes) -> str:
    """The id of an encoded result."""
    return str(json.loads(payload)["id"])


class Ticket:
    """The place of a message, or of an event that completes windows, in a :class:`TicketQueue`."""

    def __init__(self, before: asyncio.Future[None] | None) -> None:
        self._before = before
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def reach(self) -> None:
        """Returns when all earlier tickets have left."""
        if self._before is not None and not self._before.done():
            await asyncio.wait([self._before])

    def leave(self) -> None:
        """Gives up the place in the queue. If earlier tickets haven't left yet, later tickets still wait for
        them."""
        if self._before is None or self._before.done():
            self._open()
        else:
            self._before.add_done_callback(lambda _: self._open())

    def _open(self) -> None:
        if not self.left.done():
            self.left.set_result(None)


class TicketQueue:
    """Keeps messages, and events that complete windows, in the order of arrival, even if the ingest of some
    messages takes longer.

    Messages that are ready at the same time leave the queue right after each other, so that one disk sync can
    store many of them.
    """

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    @contextmanager
    def place(self) -> Iterator[Ticket]:
        place = Ticket(self._last)
        self._last = place.left
        try:
            yield place
        finally:
            place.leave()


def brings(delivery: Delivery, source: str) -> bool:
    """Whether a message was delivered for the filter ``source``.

    If several filters match, a broker may send a copy of the message for each filter. Only the routes with
    that filter handle the copy.
    """
    if not matches(source, delivery.topic):
        return False
    return not delivery.identifiers or subscription_identifier(source) in delivery.identifiers
