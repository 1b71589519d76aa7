"""The daemon: bus, journal, pipeline and service put together; the order of start, stop and drain.

What becomes of a message is the pipeline's business, what a node says of itself that of presence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.config.loader import Config
from edgeslm.engine.host.process import CANCEL_GRACE_S, STOP_GRACE_S
from edgeslm.errors import EdgeslmError
from edgeslm.hardware.malloc import give_back_free_memory, give_back_large_buffers
from edgeslm.mqtt.broker_address import client_id_of
from edgeslm.mqtt.client import BusClient, Subscription, Will
from edgeslm.mqtt.presence import ANNOUNCE_S, Presence
from edgeslm.node.admin import Admin
from edgeslm.node.backend import Observers
from edgeslm.node.control_api import ControlApi
from edgeslm.node.info import describe
from edgeslm.node.peers import Peers
from edgeslm.node.pipeline import Pipeline
from edgeslm.node.pool_membership import Membership
from edgeslm.protocol.codec import Topics, encode_state
from edgeslm.protocol.delivery import Delivery
from edgeslm.protocol.topics import BROKER_DROPPED
from edgeslm.serving.service import Service
from edgeslm.serving.warmup import WarmUp
from edgeslm.storage.database import journal_of
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.alerts import Alerts
from edgeslm.telemetry.audit import AuditLog
from edgeslm.telemetry.discovery import announcements, status_topic
from edgeslm.telemetry.health import Meter, memory_bytes, temperature_c
from edgeslm.telemetry.home_assistant import Announcer
from edgeslm.telemetry.liveness import Liveness
from edgeslm.telemetry.metrics import exposition
from edgeslm.telemetry.scrape import ScrapeEndpoint
from edgeslm.telemetry.systemd import ServiceManager
from edgeslm.telemetry.tracing import Tracer
from edgeslm.update.command_file import CommandFile
from edgeslm.update.exchange import Exchange
from edgeslm.update.store import Store
from edgeslm.update.updater import Updater

if TYPE_CHECKING:
    from edgeslm.console.host import ConsoleHost

log = logging.getLogger("edgeslm.node")

HEALTH_EVERY_S = 30.0
KEEP_AFTER_S = 1.0
"""How long a message may wait for its answer before it is written down here too."""
DRAIN_LIMIT_S = 30.0
"""How long a stop waits for what is running; what is left is delivered again at the next start."""


async def run(config: Config, path: Path | None = None) -> int:
    """Runs until SIGTERM or SIGINT; the exit status. SIGHUP has it read its file ``path`` again.

    :raises EdgeslmError: what keeps it from starting or going on.
    """
    give_back_large_buffers()
    store = Store(config.state_dir, config.node)
    gone = _begin_start(store)
    daemon = Daemon(config, Service(store.settled(config)), path, store)
    for model in gone:
        daemon.updater.note_taken_back(model, "the node ended each time that it was started with it")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, daemon.request_reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.request_stop)
    await daemon.run()
    return 0


def _begin_start(store: Store) -> list[str]:
    """:return: models that were taken back, since the node ended each time that it started with them."""
    store.clear()
    try:
        return store.begin_start()
    except OSError as error:  # the disk is full: then the start isn't counted
        log.error("the starts of models on trial can't be counted: %s", error)
        return []


class Daemon:
    """One node on the bus."""

    def __init__(
        self, config: Config, service: Service, path: Path | None = None, store: Store | None = None
    ) -> None:
        self.config = config
        self.service = service
        self.topics = Topics(config.node, config.prefix)
        self.meter = Meter(lambda: service.tasks)
        self.scrapes = ScrapeEndpoint(
            config.metrics.address, lambda accept: exposition(self.health(), accept)
        )
        self.tracer = Tracer(config.tracing, config.node, lambda: service.tasks)
        self.alerts = Alerts()
        self.manager = ServiceManager()
        self.liveness = Liveness(longest_step_s=config.limits.request_timeout_s + CANCEL_GRACE_S)
        self.boot_id = secrets.token_hex(8)
        self._stopping = asyncio.Event()
        self._sessions_lost = 0
        self._bus = BusClient(
            config.broker,
            self,
            client_id=client_id_of(config),
            queue=config.limits.queue,
            packet_bytes=config.limits.packet_bytes,
            will=Will(self.topics.state, encode_state("offline", self.boot_id)),
        )
        self._presence = Presence(self._bus, self.topics, self.boot_id, self)
        self._warmup = WarmUp(
            service,
            is_online=lambda: self._presence.state == "online",
            on_change=self._presence.announce_info,
        )
        limits = config.limits
        self._database = journal_of(config)
        self._journal = Journal(
            self._database,
            window_s=limits.repeat_window_s,
            limit_bytes=limits.journal_bytes,
            keeps_results=config.journal.keep == "full",
        )
        self._announcer = Announcer(
            Path(config.state_dir) / f"discovery-{config.node}.json",
            lambda: announcements(self.config, {name: task.kind for name, task in service.tasks.items()}),
            self._presence.retain,
        )
        self._audit = AuditLog(config.audit)
        self._peers = Peers(config.broker, config.prefix, config.node)
        service.escalation.ask_node = self._peers.ask
        self._console = self._make_console()
        self._membership = Membership(
            self.topics, config.pool, Path(config.state_dir) / f"pools-{config.node}.json"
        )
        self._pipeline = Pipeline(
            config,
            service,
            self._bus,
            self._database,
            self._journal,
            self._membership,
            Observers(self.meter, self.tracer, self._audit, self._console.feed if self._console else None),
        )
        self._store = store or Store(config.state_dir, config.node)
        self._command_file = CommandFile(config.state_dir, config.node)
        self._exchange = Exchange(config.state_dir, config.node) if config.rollouts is not None else None
        self._set_up_operating(path)

    def _make_console(self) -> ConsoleHost | None:
        """None unless the configuration has one, which few have: its modules are loaded here alone."""
        if self.config.console is None:
            return None
        from edgeslm.console.host import ConsoleHost

        return ConsoleHost(
            self.config.console,
            self.config,
            self.service,
            health=self.health,
            info=self.info,
            audit=self._audit,
        )

    def _set_up_operating(self, path: Path | None) -> None:
        config = self.config
        self.admin = Admin(
            path,
            config,
            self.service,
            self._pipeline,
            self._bus,
            self.manager,
            is_online=lambda: self._presence.state == "online",
            settled=self._store.settled,
            stop=self.request_stop,
            on_change=self._taken_up,
        )
        self.updater = Updater(
            self._store, self.admin, self.service, self.meter, on_change=self._presence.announce_health
        )
        handlers = {**self.admin.handlers, **self.updater.handlers}
        self._control = ControlApi(self._bus, self.topics, config.control.allow, handlers)
        self._reloading: asyncio.Task[Any] | None = None
        self._updating: asyncio.Task[None] | None = None

    def request_reload(self) -> None:
        """As SIGHUP: what goes wrong is logged, and stands among the alerts."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        with contextlib.suppress(EdgeslmError):
            await self.admin.reload()

    def _taken_up(self, config: Config) -> None:
        self.config = config
        self._presence.announce_info()
        self._announcer.announce()
        self._warmup.begin()

    def request_stop(self) -> None:
        self._stopping.set()
        self._pipeline.close(is_leaving=True)

    async def run(self) -> None:
        """Connects, loads, serves until a stop is requested or something fatal happens, drains."""
        with (
            self._command_file.running(),
            self._exchange.running() if self._exchange else contextlib.nullcontext(),
        ):
            await self._run()

    async def _run(self) -> None:
        self._database.open()
        self._journal.open()
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            self._pipeline.open()
            await self._bus.start()
            await self.scrapes.start()
            self.tracer.start()
            watching = asyncio.create_task(self.manager.watch(self._fault))
            loading = asyncio.create_task(self._load())
            ticking = asyncio.create_task(self._publish_health())
            keeping = asyncio.create_task(self._keep_what_waits())
            self._warmup.begin()
            showing = asyncio.create_task(self._console.run()) if self._console else None
            await self._first_of(stopped, loading, self._bus.failed)
            if not self._stopping.is_set():
                await self._first_of(stopped, self._bus.failed)
            self._control.close()
            self.updater.close()
            beside = [one for one in (self._reloading, self._updating) if one is not None]
            for task in beside:
                task.cancel()
            await self._warmup.stop()
            await self._drain()
            await asyncio.gather(*beside, return_exceptions=True)
            if showing is not None:
                showing.cancel()
                await asyncio.wait([showing])
            ticking.cancel()
            keeping.cancel()
            loading.cancel()
            watching.cancel()
        finally:
            stopped.cancel()
            await self.scrapes.stop()
            await self.tracer.stop()
            self._pipeline.abandon()  # before the bus gives up results, which a route would take for an end
            await self._presence.change(
                "stopped"
            )  # also when a model can't be loaded: the goodbye drops the will
            await self._announcer.stop()
            await self._peers.close()
            await self._bus.stop()
            await self.service.stop()
            self._journal.close()
            self._database.close()
            self._audit.close()

    @staticmethod
    async def _first_of(*futures: asyncio.Future[Any]) -> None:
        done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()  # raises what it failed with

    async def _load(self) -> None:
        self.service.scheduler.pause()  # a model may load for longer than a request may run
        try:
            await self.service.start()
        except EdgeslmError as error:
            # What was damaged on the disk is found by an engine alone: then all goes back.
            if not (changed := self._store.on_trial or self._store.changed):
                raise
            for model in changed:
                self._store.roll_back(model)
                self.updater.note_taken_back(model, str(error).partition("\n")[0].rstrip("."))
            await self.service.start_over(self._store.settled(self.config))
        self.service.scheduler.resume()
        self._updating = asyncio.create_task(self.updater.run(self._command_file, self._exchange))
        log.info("models loaded: %s", ", ".join(self.service.models.names))
        self._membership.join()
        if self._bus.connected:
            self._bus.subscribe(self._membership.subscriptions)
        await self._presence.come_online()
        self.manager.ready("online")

    async def _drain(self) -> None:
        log.info("draining")
        self.manager.stopping("draining", within_s=DRAIN_LIMIT_S + 2 * ANNOUNCE_S + STOP_GRACE_S)
        share = self._membership.leave()
        self._bus.unsubscribe(share)
        give_up_at = asyncio.get_running_loop().time() + DRAIN_LIMIT_S
        await self._presence.change("draining")
        left = await self._pipeline.drain(DRAIN_LIMIT_S)
        # The broker's answer comes behind what it still had for this member; nobody else would get that.
        while share and not left and self._bus.connected:
            await self._presence.change("draining")
            left_s = give_up_at - asyncio.get_running_loop().time()
            if not self._pipeline.is_busy or left_s <= 0:
                break
            left = await self._pipeline.drain(left_s)
        if left:
            log.warning("%d messages are left; they are delivered at the next start", left)
        with contextlib.suppress(OSError):
            self._store.end_start()

    def connected(self) -> None:
        """After every CONNACK: subscriptions and everything that is retained, since the broker may be new."""
        if not self._bus.resumed:
            if self._journal.epoch:
                self._sessions_lost += 1
                log.warning("the broker has lost the node's session, and the requests that waited in it")
            self._journal.begin_session()
        self._bus.unsubscribe(self._membership.left_over)
        self._bus.subscribe(self._pipeline.subscriptions)
        self._bus.subscribe(self._control.subscriptions)
        # Every time: what the broker dropped for a node that was away is told by the retained count alone.
        self._bus.subscribe([Subscription(BROKER_DROPPED, qos=0, every_time=True, optional=True)])
        self._presence.announce()
        if (home := self.config.discovery.prefix) is not None:
            self._bus.subscribe([Subscription(status_topic(home), optional=True)])
        self._announcer.announce()

    def disconnected(self) -> None:
        self._pipeline.keep()

    def delivered(self, delivery: Delivery) -> None:
        if delivery.topic == BROKER_DROPPED:
            self.alerts.see_broker_dropped(delivery.payload)
        elif self._control.takes(delivery.topic):
            self._audit.note("command", topic=delivery.topic, bytes=delivery.size)
            self._control.deliver(delivery)
            return
        elif (home := self.config.discovery.prefix) and delivery.topic == status_topic(home):
            self._announcer.heard(delivery.payload)
        self._pipeline.deliver(delivery)

    async def _publish_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            self._journal.retry()
            self._journal.tidy()
            give_back_free_memory()
            self._presence.announce_health()

    async def _keep_what_waits(self) -> None:
        while True:
            await asyncio.sleep(KEEP_AFTER_S)
            self._pipeline.keep(older_than_s=KEEP_AFTER_S)

    def _fault(self) -> str | None:
        scheduler = self.service.scheduler
        return self.liveness.fault(
            network_alive=self._bus.network_alive,
            network_silent_s=self._bus.network_silent_s,
            unfinished=0 if self._presence.state == "starting" else scheduler.waiting + scheduler.in_flight,
            moved_at=scheduler.moved_at,
        )

    def health(self) -> dict[str, Any]:
        """The node's condition now, with no text of any message."""
        scheduler, console = self.service.scheduler, self._console
        figures = self.meter.figures()
        figures["dropped"]["qos0"] = self._bus.dropped
        return {
            "state": self._presence.state,
            "queue": scheduler.waiting,
            "in_flight": scheduler.in_flight,
            **figures,
            "broker_dropped": self.alerts.broker_dropped,
            "session_lost": self._sessions_lost,
            "engine_restarts": self.service.models.losses,
            "memory_bytes": memory_bytes({**self.service.pids, **(console.pids if console else {})}),
            "temperature_c": temperature_c(),
            "updates": {name: outcome.figures() for name, outcome in self.updater.outcomes.items()},
            "drift": {name: watch.figures() for name, watch in self.service.watches.items()},
            "alerts": self.alerts.sentences(
                session_lost=self._sessions_lost,
                standing=[
                    self._fault(),
                    self._database.problem,
                    self._database.damage,
                    self.scrapes.problem,
                    self._audit.problem,
                    self.tracer.problem,
                    *self._bus.shortcomings,
                    *self._warmup.problems,
                    self.admin.problem,
                    *self.updater.problems,
                    *self.service.library.problems,
                    console.problem if console else None,
                    *(watch.sentence(name) for name, watch in self.service.watches.items()),
                ],
            ),
        }

    def info(self) -> dict[str, Any]:
        """What this node is and can do."""
        return describe(self.config, self.service, self.topics, self.boot_id)
