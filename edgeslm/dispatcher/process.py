"""The dispatcher process: alternates between standby and active until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal

from edgeslm.dispatcher.ack_log import Answered
from edgeslm.dispatcher.active import ActiveDispatcher
from edgeslm.dispatcher.settings import DispatcherSettings
from edgeslm.dispatcher.standby import Standby
from edgeslm.mqtt.broker_address import pool_client_id
from edgeslm.mqtt.diagnostics import SessionTakenOver
from edgeslm.storage.database import Database
from edgeslm.storage.encryption import load_seal
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.health import Meter
from edgeslm.telemetry.liveness import NETWORK_SILENT_S
from edgeslm.telemetry.log_lines import handle_loop_exception
from edgeslm.telemetry.systemd import ServiceManager

log = logging.getLogger("edgeslm.dispatcher")

HOLD_OFF_S = 3.0
"""Seconds that a dispatcher pauses after it has lost the leadership, so that its successor can take the
lease."""
STOP_S = 15.0
LEAST_ANSWERED = 1024


async def run(settings: DispatcherSettings) -> int:
    """Runs a dispatcher until SIGTERM or SIGINT and returns the exit status.

    :raises EdgeslmError: the dispatcher can't start, or stops because of a fatal error.
    """
    dispatcher = Dispatcher(settings)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(handle_loop_exception)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, dispatcher.request_stop)
    await dispatcher.run()
    return 0


class Dispatcher:
    """One dispatcher of a pool."""

    def __init__(self, settings: DispatcherSettings) -> None:
        self.settings = settings
        self.meter = Meter()
        self.work: ActiveDispatcher | None = None
        """The active dispatcher; None in standby."""
        self.terms = 0
        self._manager = ServiceManager()
        self._standby: Standby | None = None
        self._stopping = asyncio.Event()
        self._client_id = pool_client_id(settings.broker, settings.prefix, settings.pool)
        key_file = settings.journal.key_file
        self._database = Database(
            settings.state_dir / f"journal-pool-{settings.pool}.sqlite",
            seal=load_seal(key_file) if key_file is not None else None,
        )
        self._journal = Journal(
            self._database,
            window_s=settings.limits.repeat_window_s,
            limit_bytes=settings.limits.journal_bytes,
            keeps_results=settings.journal.keep == "full",
        )

    def request_stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Runs until a stop is requested or a fatal error occurs."""
        self._database.open()
        watching = asyncio.create_task(self._manager.watch(self._fault))
        self._answered = Answered(
            self._database.file.with_suffix(".answered"), max(LEAST_ANSWERED, 2 * self.settings.limits.queue)
        )
        try:
            self._journal.open()
            hold_off_s = 0.0
            while await self._wait_for_turn(hold_off_s) and not await self._work():
                hold_off_s = HOLD_OFF_S
        finally:
            watching.cancel()
            self._answered.close()
            self._journal.close()
            self._database.close()

    async def _wait_for_turn(self, hold_off_s: float) -> bool:
        """Waits in standby. :return: whether to become active; false to stop."""
        self._standby = Standby(self.settings, self._client_id, self._answered, is_first=not self.terms)
        self._manager.ready("standby")
        waiting = asyncio.create_task(self._standby.wait(hold_off_s))
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([waiting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()  # raises its exception
            return not self._stopping.is_set()
        finally:
            stopped.cancel()
            waiting.cancel()
            await asyncio.wait([waiting])
            self._standby = None

    async def _work(self) -> bool:
        """Leads the pool for one term. :return: whether to stop; false to go back to standby."""
        self.terms += 1
        self.work = ActiveDispatcher(
            self.settings,
            self._client_id,
            secrets.token_hex(8),
            journal=self._journal,
            answered=self._answered,
            meter=self.meter,
            database=self._database,
        )
        log.info("active for the pool %s", self.settings.pool)
        self._manager.ready("online")
        try:
            return await self.work.run(self._stopping)
        except SessionTakenOver:
            log.warning("another dispatcher has taken the pool over; waiting until it is gone")
            return self._stopping.is_set()
        finally:
            self.work = None
            if self._stopping.is_set():
                self._manager.stopping("stopping", within_s=STOP_S)

    def _fault(self) -> str | None:
        work, standby = self.work, self._standby
        buses = [work.pool, work.nodes.bus] if work is not None else [standby.bus] if standby else []
        for bus in buses:
            if bus.network_silent_s > NETWORK_SILENT_S:
                return f"The network thread has been stuck for {bus.network_silent_s:.0f} s."
        return None
