"""The daemon: builds a node from bus, journal, pipeline, service and extensions; starts and drains it.

The pipeline handles requests; extensions do everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.config.loader import Config
from edgeslm.config.remote_stages import ChatServer
from edgeslm.engine.host.process import CANCEL_GRACE_S, STOP_GRACE_S
from edgeslm.errors import EdgeslmError
from edgeslm.hardware.malloc import give_back_free_memory, give_back_large_buffers
from edgeslm.messages import Request
from edgeslm.mqtt.broker_address import client_id_of
from edgeslm.mqtt.client import BusClient, Will
from edgeslm.mqtt.presence import ANNOUNCE_S, Presence
from edgeslm.node.admin import Admin
from edgeslm.node.backend import Observers
from edgeslm.node.control_api import ControlApi
from edgeslm.node.feedback import feedback_handlers
from edgeslm.node.info import describe
from edgeslm.node.peers import Peers
from edgeslm.node.pipeline import Pipeline
from edgeslm.node.pool_membership import Membership
from edgeslm.protocol.codec import Topics, encode_state
from edgeslm.protocol.delivery import Delivery, Subscription
from edgeslm.serving.label_calibration import LabelCalibration
from edgeslm.serving.model_pool import MakeProcess
from edgeslm.serving.prepare import QUIET, QuietTimes
from edgeslm.serving.service import Service
from edgeslm.serving.warmup import WarmUp
from edgeslm.storage.database import journal_of
from edgeslm.storage.feedback_store import FeedbackStore
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.alerts import BrokerLosses, CpuQuota
from edgeslm.telemetry.audit import AuditLog
from edgeslm.telemetry.extension import Extension
from edgeslm.telemetry.health import Meter, memory_bytes, temperature_c
from edgeslm.telemetry.liveness import Liveness
from edgeslm.telemetry.log_lines import handle_loop_exception
from edgeslm.telemetry.systemd import ServiceManager
from edgeslm.telemetry.tracing import Tracer
from edgeslm.update.commands import handlers_of
from edgeslm.update.store import Store
from edgeslm.update.updater import Updater

if TYPE_CHECKING:
    from edgeslm.console.host import ConsoleHost

log = logging.getLogger("edgeslm.node")

KEEP_AFTER_S = 1.0
"""Seconds after which an unanswered message is copied to the spool."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Intervals and time limits of a daemon, in seconds."""

    health_every_s: float = 30.0
    drain_limit_s: float = 30.0
    """How long a stopping daemon waits for running requests. The broker delivers unfinished requests again at
    the next start."""
    announce_s: float = ANNOUNCE_S
    """How long the daemon waits for the broker's acknowledgement of a state message."""
    quiet: QuietTimes = QUIET


WAITS = Waits()


async def run(config: Config, path: Path | None = None) -> int:
    """Runs a node until SIGTERM or SIGINT and returns the exit status. SIGHUP reloads the file ``path``.

    :raises EdgeslmError: the node can't start, or stops because of a fatal error.
    """
    give_back_large_buffers()
    store = Store(config.state_dir, config.node)
    gone = _begin_start(store)
    daemon = Daemon(config, make_service(store.settled(config)), path, store)
    for model in gone:
        daemon.updater.note_taken_back(model, "the node crashed at each start with it")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(handle_loop_exception)
    loop.add_signal_handler(signal.SIGHUP, daemon.admin.request_reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.request_stop)
    await daemon.run()
    return 0


def make_service(config: Config, make_process: MakeProcess | None = None) -> Service:
    """A service that can escalate requests to other nodes."""
    nodes = Peers(config.broker, config.prefix, config.node)
    return Service(config, nodes=nodes, make_process=make_process)


def _begin_start(store: Store) -> list[str]:
    """:return: names of the models that were rolled back, since the node crashed at every start with their
    new bundle."""
    store.clear()
    try:
        return store.begin_start()
    except OSError as error:  # disk full
        log.error("the starts of models on trial can't be counted: %s", error)
        return []


class Daemon:
    """One node, with its connection to the broker."""

    def __init__(
        self,
        config: Config,
        service: Service,
        path: Path | None = None,
        store: Store | None = None,
        waits: Waits = WAITS,
    ) -> None:
        self._waits = waits
        self.config = config
        self.service = service
        self.topics = Topics(config.node, config.prefix)
        self.boot_id = secrets.token_hex(8)
        self.meter = Meter(service)
        self._stopping = asyncio.Event()
        self._manager = ServiceManager()
        self._liveness = Liveness(longest_step_s=config.limits.request_timeout_s + CANCEL_GRACE_S)
        self.bus = self._make_bus()
        self._presence = Presence(self.bus, self.topics, self.boot_id, self, announce_s=waits.announce_s)
        self.database = journal_of(config)
        self._journal = Journal(
            self.database,
            window_s=config.limits.repeat_window_s,
            limit_bytes=config.limits.journal_bytes,
            keeps_results=config.journal.keep == "full",
        )
        self._audit = AuditLog(config.audit)
        service.escalation.servers.on_sent = self._note_sent
        self._tracer = Tracer(config.tracing, config.node, service)
        self._losses = BrokerLosses()
        self._store = store or Store(config.state_dir, config.node)
        self.admin = Admin(path, self, service, self._store, self._presence, self._manager)
        self.updater = Updater(self._store, self.admin, service, self.meter, self._presence)
        self._console = self._make_console()
        pools = config.state_dir / f"pools-{config.node}.json"
        self._membership = Membership(self.topics, config.pool, pools)
        self._pipeline = self._make_pipeline()
        self.extensions = [self.updater, self.admin, self._tracer, self._losses, *self._make_extensions()]
        self._by_topic = {one.filter: part for part in self.extensions for one in part.subscriptions}

    def _note_sent(self, request: Request, server: ChatServer, size: int) -> None:
        """Adds what left this node to the audit log."""
        self._audit.note(
            "sent",
            task=request.task,
            id=request.id,
            reply_to=request.reply_to,
            to=server.host,
            model=server.model,
            bytes=size,
        )

    def _make_bus(self) -> BusClient:
        config = self.config
        return BusClient(
            config.broker,
            self,
            client_id=client_id_of(config),
            queue=config.limits.queue,
            packet_bytes=config.limits.packet_bytes,
            will=Will(self.topics.state, encode_state("offline", self.boot_id)),
        )

    def _make_pipeline(self) -> Pipeline:
        return Pipeline(
            self.config,
            self.service,
            self.bus,
            self.database,
            self._journal,
            self._membership,
            Observers(self.meter, self._tracer, self._audit, self._console.feed if self._console else None),
        )

    def _make_console(self) -> ConsoleHost | None:
        if self.config.console is None or self.config.console.teach is None:
            self._forget_samples()
        if self.config.console is None:
            return None
        from edgeslm.console.host import ConsoleHost

        console = self.config.console
        return ConsoleHost(console, self.config, self.service, self, self._audit, self.updater)

    def _forget_samples(self) -> None:
        """Deletes the messages that were kept for teaching while that was on."""
        for file in self.config.state_dir.glob(f"samples-{self.config.node}.sqlite*"):
            with contextlib.suppress(OSError):
                file.unlink()

    def _make_extensions(self) -> Iterator[Extension]:
        """The extensions that the configuration enables. Modules of disabled extensions aren't imported."""
        config, presence, service = self.config, self._presence, self.service
        yield from (WarmUp(service, presence, self._waits.quiet), CpuQuota(), LabelCalibration(service))
        if config.control.allow:
            corrections = feedback_handlers(FeedbackStore(config.state_dir), self.service, config.node)
            handlers = {**self.admin.handlers, **handlers_of(self.updater, self._store), **corrections}
            yield ControlApi(self.bus, self.topics, self._audit, config.control.allow, handlers)
        if config.metrics.address is not None:
            from edgeslm.telemetry.scrape import ScrapeEndpoint

            yield ScrapeEndpoint(config.metrics.address, self)
        record = config.state_dir / f"discovery-{config.node}.json"
        if config.discovery.prefix is not None or record.exists():  # else withdraw what was announced
            from edgeslm.telemetry.home_assistant import Announcer

            yield Announcer(record, config, self.service, presence)
        if self._console is not None:
            yield self._console
        if config.api is not None:
            from edgeslm.api.host import ApiHost

            yield ApiHost(config.api, config, self.service, self._pipeline.direct)

    def take_up(self, config: Config) -> None:
        """Switches routes, subscriptions and published info to ``config``."""
        before = self._subscriptions()
        self.config = config
        self._pipeline.take_up(config)
        after = self._subscriptions()
        self.bus.subscribe(one for one in after.values() if before.get(one.filter) != one)
        self.bus.unsubscribe(before.keys() - after.keys())
        self._presence.announce_info()
        for extension in self.extensions:
            extension.take_up(config)

    def reloaded(self) -> None:
        """Tells the extensions of a reload."""
        for extension in self.extensions:
            extension.reloaded()

    def _subscriptions(self) -> dict[str, Subscription]:
        """The pipeline's subscriptions, by topic filter."""
        wanted = (Subscription(one) if isinstance(one, str) else one for one in self._pipeline.subscriptions)
        return {one.filter: one for one in wanted}

    def request_stop(self) -> None:
        self._stopping.set()
        self._pipeline.close(is_leaving=True)

    async def run(self) -> None:
        """Connects, loads models, serves requests until a stop or a fatal error, then drains."""
        with self.updater.running():
            await self._run()

    async def _run(self) -> None:
        self.database.open()
        self._journal.open()
        stopped = asyncio.create_task(self._stopping.wait())
        beside: list[asyncio.Task[Any]] = [stopped]
        try:
            self._pipeline.open()
            await self.bus.start()
            for extension in self.extensions:
                await extension.start()
            loading = asyncio.create_task(self._load())
            watching = self._manager.watch(self._fault)
            works = (watching, self._publish_health(), self._spool_waiting())
            beside += [loading, *map(asyncio.create_task, works)]
            await self._first_of(stopped, loading, self.bus.failed)
            if not self._stopping.is_set():
                await self._first_of(stopped, self.bus.failed)
            for extension in self.extensions:
                extension.close()
            await self._drain()
        finally:
            for task in beside:
                task.cancel()
            self._pipeline.abandon()  # before the bus fails publishes: a route would count that as done
            # Even if loading failed: a clean disconnect discards the will.
            await self._presence.change("stopped")
            for extension in reversed(self.extensions):
                try:
                    await extension.stop()
                except Exception as error:  # the others must still stop
                    log.error("%s failed to stop: %s", type(extension).__name__, type(error).__name__)
                    log.debug("%s failed to stop", type(extension).__name__, exc_info=error)
            await self.bus.stop()
            await self.service.stop()
            self._journal.close()
            self.database.close()
            self._audit.close()

    @staticmethod
    async def _first_of(*futures: asyncio.Future[Any]) -> None:
        done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()  # raises its exception

    async def _load(self) -> None:
        self.service.scheduler.pause()  # loading may take longer than request_timeout_s
        start = self.service.start
        while True:
            try:
                await start()
                break
            except EdgeslmError as error:
                # Only loading finds a bundle damaged on disk, but not which: roll back all that changed.
                if not (changed := self._store.take_back()):
                    raise
                for model in changed:
                    self.updater.note_taken_back(model, str(error).partition("\n")[0].rstrip("."))
            start = partial(self.service.start_over, self._store.settled(self.config))
        self.service.scheduler.resume()
        if self._stopping.is_set():
            return
        for extension in self.extensions:
            extension.online()
        log.info("models loaded: %s", ", ".join(self.service.models.names))
        self._membership.join()
        if self.bus.connected:
            self.bus.subscribe(self._membership.subscriptions)
        await self._presence.come_online()
        self._manager.ready("online")
        gc.collect()  # what reading the configuration has left
        give_back_free_memory()

    async def _drain(self) -> None:
        log.info("draining")
        waits, limit_s = self._waits, self._waits.drain_limit_s
        self._manager.stopping("draining", within_s=limit_s + 2 * waits.announce_s + STOP_GRACE_S)
        share = self._membership.leave()
        self.bus.unsubscribe(share)
        give_up_at = asyncio.get_running_loop().time() + limit_s
        await self._presence.change("draining")
        left = await self._pipeline.drain(limit_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(give_up_at):
                await asyncio.gather(*(extension.drain() for extension in self.extensions))
        # UNSUBACK comes after the shared messages in transit to this member; no other member gets those.
        while share and not left and self.bus.connected:
            await self._presence.change("draining")
            left_s = give_up_at - asyncio.get_running_loop().time()
            if not self._pipeline.is_busy or left_s <= 0:
                break
            left = await self._pipeline.drain(left_s)
        if left:
            log.warning("%d messages are unfinished; they are delivered again at the next start", left)
        with contextlib.suppress(OSError):
            self._store.end_start()

    def connected(self) -> None:
        """Called after every CONNACK: subscribes, and republishes retained messages, since the broker may
        have lost them."""
        if not self.bus.resumed:
            if self._journal.epoch:
                self._losses.lose_session()
                log.warning("the broker has lost the node's session, and the requests that waited in it")
            self._journal.begin_session()
        self.bus.unsubscribe(self._membership.left_over)
        self.bus.subscribe(self._pipeline.subscriptions)
        for extension in self.extensions:
            self.bus.subscribe(extension.subscriptions)
        self._presence.announce()
        for extension in self.extensions:
            extension.connected()

    def disconnected(self) -> None:
        self._pipeline.keep()

    def delivered(self, delivery: Delivery) -> None:
        extension = self._by_topic.get(delivery.topic)
        if extension is None or not extension.on_message(delivery):
            self._pipeline.deliver(delivery)

    async def _publish_health(self) -> None:
        while True:
            await asyncio.sleep(self._waits.health_every_s)
            self._journal.retry()
            self._journal.tidy()
            give_back_free_memory()
            try:
                self._presence.announce_health()
            except Exception as error:  # a figure that can't be encoded must not end the others
                log.error("health can't be published: %s", type(error).__name__)
                log.debug("health can't be published", exc_info=error)

    async def _spool_waiting(self) -> None:
        while True:
            await asyncio.sleep(KEEP_AFTER_S)
            self._pipeline.keep(older_than_s=KEEP_AFTER_S)

    def _fault(self) -> str | None:
        scheduler = self.service.scheduler
        return self._liveness.fault(
            network_alive=self.bus.network_alive,
            network_silent_s=self.bus.network_silent_s,
            unfinished=0 if self._presence.state == "starting" else scheduler.waiting + scheduler.in_flight,
            moved_at=scheduler.moved_at,
        )

    def health(self) -> dict[str, Any]:
        """The health message, a JSON object without any text of requests."""
        scheduler, watches = self.service.scheduler, self.service.deployment.watches
        figures, pids = self.meter.figures(), dict(self.service.deployment.pids)
        figures["dropped"]["qos0"] = self.bus.dropped
        for extension in self.extensions:
            figures |= extension.health()
            pids |= extension.pids
        return {
            "state": self._presence.state,
            "queue": scheduler.waiting,
            "in_flight": scheduler.in_flight,
            **figures,
            "engine_restarts": self.service.models.losses,
            "memory_bytes": memory_bytes(pids),
            "temperature_c": temperature_c(),
            "drift": {name: watch.figures() for name, watch in watches.items()},
            "alerts": [sentence for sentence in self._alerts() if sentence],
        }

    def _alerts(self) -> Iterator[str | None]:
        yield from (self._fault(), self.database.problem, self.database.damage, self._audit.problem)
        yield from self.bus.shortcomings
        yield from self._pipeline.alerts()
        for extension in self.extensions:
            yield from extension.alerts
        yield from self.service.library.problems
        yield from (watch.sentence(name) for name, watch in self.service.deployment.watches.items())

    def info(self) -> dict[str, Any]:
        """The info message, a JSON object; see :func:`describe`."""
        return describe(self.config, self.service, self.topics, self.boot_id)

    def routes(self) -> list[dict[str, Any]]:
        """The routes with the messages since the node's start."""
        return self._pipeline.routes()
