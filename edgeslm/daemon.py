"""The daemon: bus, service and routes put together; the order of start, stop and drain.

A request travels in one direction: bytes -> ``bus.protocol`` -> ``service`` -> bytes -> the broker's
acknowledgement of the result -> our acknowledgement of the request. Only then does the broker forget it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import math
import secrets
import signal
import time
import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from edgeslm import __version__
from edgeslm.bus.client import BusClient, Delivery, Subscription
from edgeslm.bus.options import OPTIONS
from edgeslm.bus.protocol import (
    Rejected,
    StateName,
    Topics,
    encode_chunk,
    encode_dead,
    encode_document,
    encode_result,
    encode_state,
    error_result,
    parse_cancel,
    parse_request,
)
from edgeslm.config import Config
from edgeslm.errors import BrokerError, InvalidRequest
from edgeslm.messages import Chunk, Request, Result
from edgeslm.observe.health import Meter, memory_bytes, temperature_c
from edgeslm.routes import RouteReader, Skip
from edgeslm.service import Service

log = logging.getLogger("edgeslm.daemon")

HEALTH_EVERY_S = 30.0
ANNOUNCE_S = 5.0
"""How long a change of state waits for the broker's acknowledgement."""
DRAIN_LIMIT_S = 30.0
"""How long a stop waits for what is running; what is left is delivered again at the next start."""


async def run(config: Config) -> int:
    """Runs until SIGTERM or SIGINT; the exit status.

    :raises EdgeslmError: what keeps it from starting or going on.
    """
    _give_back_large_buffers()
    daemon = Daemon(config, Service(config))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.request_stop)
    await daemon.run()
    return 0


def _give_back_large_buffers() -> None:
    """Keeps glibc from raising its threshold for memory maps: after one message of 10 MB the next ones would
    come from the heap, which never shrinks below them (mallopt(3), M_MMAP_THRESHOLD)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 128 * 1024)


class Daemon:
    """One node on the bus."""

    def __init__(self, config: Config, service: Service) -> None:
        self.config = config
        self.service = service
        self.topics = Topics(config.node, config.prefix)
        self.meter = Meter()
        self.boot_id = secrets.token_hex(8)
        self._state: StateName = "starting"
        self._routes = [RouteReader(route, self.topics.base) for route in config.routes]
        self._stopping = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self._bus = BusClient(
            config.broker,
            client_id=f"{config.prefix}-{config.node}",
            queue=config.limits.queue,
            packet_bytes=config.limits.packet_bytes,
            will=(self.topics.state, encode_state("offline", self.boot_id)),
            on_delivery=self._on_delivery,
            on_connect=self._announce,
        )

    def request_stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Connects, loads, serves until a stop is requested or something fatal happens, drains."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await self._bus.start()
            loading = asyncio.create_task(self._load())
            ticking = asyncio.create_task(self._publish_health())
            await self._first_of(stopped, loading)
            if not self._stopping.is_set():
                await self._first_of(stopped, self._bus.failed)
            await self._drain()
            ticking.cancel()
            loading.cancel()
        finally:
            stopped.cancel()
            await self._set_state("stopped")  # also when a model can't be loaded: the goodbye drops the will
            await self._bus.stop()
            await self.service.stop()

    @staticmethod
    async def _first_of(*futures: asyncio.Future[Any]) -> None:
        done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()  # raises what it failed with

    async def _load(self) -> None:
        await self.service.start()
        log.info("models loaded: %s", ", ".join(self.config.models))
        await self._set_state("online")
        await self._publish_retained(self.topics.health, encode_document(self.health()))

    async def _drain(self) -> None:
        log.info("draining")
        await self._set_state("draining")
        serving = set(self._serving)
        if serving:
            _, left = await asyncio.wait(serving, timeout=DRAIN_LIMIT_S)
            if left:
                log.warning("%d messages are left; the broker delivers them at the next start", len(left))

    # -- what is retained ----------------------------------------------------------------------------

    async def _set_state(self, state: StateName) -> None:
        self._state = state
        if self._bus.connected:  # else it is announced on the next connect
            with contextlib.suppress(TimeoutError):  # the broker may be gone without a word: go on
                async with asyncio.timeout(ANNOUNCE_S):
                    await self._publish_retained(self.topics.state, encode_state(state, self.boot_id))

    def _announce(self) -> None:
        """After every CONNACK: subscriptions and everything that is retained, since the broker may be new."""
        self._bus.subscribe([self.topics.requests_filter, self.topics.cancel, *self._route_subscriptions()])
        for topic, payload in (
            (self.topics.state, encode_state(self._state, self.boot_id)),
            (self.topics.info, encode_document(self.info())),
            (self.topics.health, encode_document(self.health())),
        ):
            self._start(self._publish_retained(topic, payload))

    def _route_subscriptions(self) -> list[Subscription]:
        """One a filter; the broker sends retained messages where one of its routes wants them."""
        wanted: dict[str, bool] = {}
        for route in self.config.routes:
            wanted[route.source] = wanted.get(route.source, False) or route.accept_retained
        return [
            Subscription(source, retained=retained, identifier=subscription_identifier(source))
            for source, retained in wanted.items()
        ]

    async def _publish_retained(self, topic: str, payload: bytes) -> None:
        try:
            await self._bus.publish(topic, payload, qos=1, retain=True)
        except BrokerError as error:
            log.warning("%s could not be published: %s", topic, error)

    async def _publish_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            await self._publish_retained(self.topics.health, encode_document(self.health()))

    def health(self) -> dict[str, Any]:
        """The node's condition now, with no text of any message."""
        scheduler = self.service.scheduler
        figures = self.meter.figures()
        figures["dropped"]["qos0"] = self._bus.dropped
        return {
            "state": self._state,
            "queue": scheduler.waiting,
            "in_flight": scheduler.in_flight,
            **figures,
            "session_lost": self._bus.session_lost,
            "memory_bytes": memory_bytes(self.service.models.pids),
            "temperature_c": temperature_c(),
        }

    def info(self) -> dict[str, Any]:
        """What this node is and can do, with no secret and no path."""
        config, models = self.config, self.service.models
        return {
            "version": __version__,
            "protocol": 1,
            "node": config.node,
            "boot_id": self.boot_id,
            "tasks": {
                name: {
                    "kind": task.kind,
                    "model": self.service.model_of(name),
                    "request": self.topics.request(name),
                    "options": {
                        option: dict(OPTIONS[option].schema) for option in sorted(task.section.allowed)
                    },
                    "result_schema": task.result_schema(),
                }
                for name, task in self.service.tasks.items()
            },
            "routes": [
                {"name": route.name, "from": route.source, "task": route.task} for route in config.routes
            ],
            "models": {
                name: {
                    "bundle": (bundle := models.bundle(name)).manifest.name,
                    "kind": bundle.manifest.kind,
                    "digest": bundle.digest,
                    "context_length": bundle.manifest.context_length,
                }
                for name in config.models
            },
            "limits": config.limits.model_dump(),
        }

    # -- messages ------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._stopping.is_set():
            return  # not acknowledged: the broker delivers it at the next start
        if (task := self.topics.task_of(delivery.topic)) is not None:
            self._acknowledge_after([self._serve_request(delivery, task)], delivery)
        elif delivery.topic == self.topics.cancel:
            # As a task too: the request that it means may have come just before and not have begun.
            self._acknowledge_after([self._cancel(delivery)], delivery)
        else:
            # All at once, so that no later message overtakes this one on its way to the queue.
            matching = [route for route in self._routes if brings(delivery, route)]
            self._acknowledge_after([self._serve_route(route, delivery) for route in matching], delivery)

    def _acknowledge_after(self, work: Sequence[Coroutine[Any, Any, None]], delivery: Delivery) -> None:
        """Acknowledges a message when all of its work has ended, even badly.

        Acknowledgements keep their order, so one that never left would hold back all that follow.
        """
        left = len(work)

        def ended(task: asyncio.Task[None]) -> None:
            nonlocal left
            left -= 1
            if not left and not task.cancelled():
                self._bus.ack(delivery)

        for each in work:
            self._start(each).add_done_callback(ended)
        if not work:
            self._bus.ack(delivery)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._serving.add(task)
        task.add_done_callback(self._served)
        return task

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message was not served to its end: %s", type(error).__name__)
            log.debug("a message was not served to its end", exc_info=error)

    async def _serve_request(self, delivery: Delivery, task: str) -> None:
        request = parse_request(
            delivery.payload,
            task=task,
            topics=self.topics,
            allowed_replies=self.config.replies,
            packet_limit=self.config.limits.packet_bytes,
            now=delivery.received_at,
            response_topic=delivery.response_topic,
            correlation=delivery.correlation,
            expiry_s=delivery.expiry_s,
            size=delivery.size,
        )
        if isinstance(request, Rejected):
            result = error_result(request.id, request.task, request.error)
        else:
            result = await self.service.submit(request, self._chunks_of(request))
        await self._send(request, result)

    async def _send(self, request: Request | Rejected, result: Result) -> None:
        """Publishes a result; one that the broker won't take, and a poisoned request, is reported dead."""
        self.meter.count(result)
        expiry_s = None
        if isinstance(request, Request) and request.expires_at is not None:
            expiry_s = max(1, math.ceil(request.expires_at - time.monotonic()))
        try:
            await self._bus.publish(
                request.reply_to,
                encode_result(result),
                qos=1,
                correlation=request.correlation,
                expiry_s=expiry_s,
            )
        except BrokerError as error:
            log.warning("the result of request %s could not be sent: %s", request.id, error)
            result = error_result(request.id, request.task, InvalidRequest(str(error)))
        else:
            if result.error is None or result.error.code != "poisoned":
                return
        if result.error is not None:
            dead = encode_dead(
                id=request.id, task=request.task, reply_to=request.reply_to, error=result.error
            )
            try:
                await self._bus.publish(self.topics.dead, dead, qos=1)
            except BrokerError as error:
                log.error("request %s is given up and can't be reported dead: %s", request.id, error)

    def _chunks_of(self, request: Request) -> Callable[[str], None] | None:
        if not request.options.get("stream"):
            return None
        topic = self.topics.stream(request.reply_to)
        count = 0

        def send(text: str) -> None:
            nonlocal count
            chunk = encode_chunk(Chunk(request.id, count, text))
            self._start(self._publish_chunk(topic, chunk, request.correlation))
            count += 1

        return send

    async def _publish_chunk(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        await self._bus.publish(topic, payload, qos=0, correlation=correlation)

    async def _cancel(self, delivery: Delivery) -> None:
        try:
            cancel = parse_cancel(delivery.payload, delivery.correlation)
        except InvalidRequest as error:
            log.warning("a message on %s names no request", self.topics.cancel)
            log.debug("a message on %s names no request: %s", self.topics.cancel, error)
            return
        self.service.scheduler.cancel(
            lambda request: (
                request.correlation == cancel.correlation if cancel.correlation else request.id == cancel.id
            )
        )

    async def _serve_route(self, route: RouteReader, delivery: Delivery) -> None:
        if delivery.size > self.config.limits.packet_bytes:
            self.meter.drop("too_large")
            return
        work = route.consider(delivery.topic, delivery.payload, delivery.retain, delivery.received_at)
        if isinstance(work, Skip):
            self.meter.drop(work.reason)
            log.debug("route %s skipped a message: %s", route.name, work.sentence)
            return
        request = Request(
            work.task, work.input, secrets.token_hex(8), work.topic, received_at=delivery.received_at
        )
        result = await self.service.submit(request)
        self.meter.count(result)
        if not route.wants(work, result):
            return
        try:
            await self._bus.publish(work.topic, encode_result(result), qos=work.qos, retain=work.retain)
        except BrokerError as error:
            log.warning("a result of route %s could not be sent: %s", route.name, error)


def brings(delivery: Delivery, route: RouteReader) -> bool:
    """Whether a message is for a route.

    A broker may send a copy for each filter that the topic fits; each is for the routes of its filter alone.
    """
    if not route.matches(delivery.topic):
        return False
    return not delivery.identifiers or subscription_identifier(route.route.source) in delivery.identifiers


def subscription_identifier(topic_filter: str) -> int:
    """1 to 268,435,455 (MQTT 5 section 3.8.2.1.2), the same at every start of the daemon.

    Messages wait in the broker's session with the identifiers of the start before, and the configuration may
    have changed since.
    """
    return zlib.crc32(topic_filter.encode()) % 268_435_455 + 1
