"""Nodes and dispatchers whose process may be killed at any step, and starts again on the same disk."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeslm.config.loader import Config, load_config
from edgeslm.dispatcher.process import Dispatcher
from edgeslm.dispatcher.settings import load_settings
from edgeslm.errors import ConfigError
from edgeslm.mqtt.broker_address import client_id_of, pool_client_id
from edgeslm.node.daemon import WAITS, Daemon
from edgeslm.protocol.codec import Topics
from edgeslm.serving.service import Service
from edgeslm.update.store import Store
from tests.simulation.disk import Disk
from tests.simulation.engine import SimEngine
from tests.simulation.loop import OUTSIDE, Place, Process, SimLoop, bury
from tests.simulation.others import OtherNodes


class Program(ABC):
    """``process`` is the current or last process, and ``boots`` counts the processes.

    ``on_killed`` is called when a process is killed, and ``on_ended`` when it ends on its own, with the error
    that ended it.
    """

    def __init__(self, loop: SimLoop, name: str, disk: Disk) -> None:
        self.loop = loop
        self.name = name
        self.disk = disk
        self.process: Process | None = None
        self.boots = 0
        self.kill_at: dict[Place, int] = {}
        """Places of the code, and at which visit this or a later process is killed there."""
        self.on_killed: Callable[[], None] = lambda: None
        self.on_ended: Callable[[BaseException | None], None] = lambda failure: None

    @abstractmethod
    async def _work(self) -> None:
        """What a process does until it ends."""

    @abstractmethod
    def _forget(self) -> Callable[[], None]:
        """Forgets the objects of a process that is dead. :return: closes what these objects have open."""

    @property
    def is_up(self) -> bool:
        return self.process is not None and not self.process.is_dead

    def start(self) -> None:
        if self.is_up:
            return
        if self.disk.is_off:
            self.disk.turn_on()
        self.boots += 1
        self.process = process = Process(self.name, self.kill_at)
        process.on_kill = self.kill
        process.context.copy().run(self.loop.create_task, self._run(process))

    async def _run(self, process: Process) -> None:
        try:
            await self._work()
        except Exception as error:
            if process.is_dead:
                return
            self._end(process)
            self.on_ended(error)
        else:
            if not process.is_dead:
                self._end(process)
                self.on_ended(None)

    def _end(self, process: Process) -> None:
        """The process ended on its own."""
        process.is_dead = True
        self.disk.turn_off()
        self.loop.call_soon(bury, process, context=OUTSIDE)
        self._forget()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work in the process, which is up."""
        if self.process is not None:
            self.process.context.copy().run(self.loop.create_task, work)

    def kill(self) -> None:
        """Like ``kill -9``, now."""
        process = self.process
        if process is None or process.is_dead:
            return
        process.is_dead = True
        self.disk.turn_off()
        self.on_killed()
        self.loop.call_soon(self._bury, process, context=OUTSIDE)

    def _bury(self, process: Process) -> None:
        close = self._forget()
        bury(process)
        close()


class SimNode(Program):
    """``daemon`` is that of the current process; None while there is none.

    ``file`` is the configuration, and ``others`` are the nodes that this node may ask. ``on_start`` is called
    in each new process with its daemon, before it runs.
    """

    def __init__(self, loop: SimLoop, file: Path, disk: Disk, others: OtherNodes) -> None:
        self._others = others
        self.file = file
        self.config: Config = load_config(file)
        super().__init__(loop, self.config.node, disk)
        self.client = client_id_of(self.config)
        self.topics = Topics(self.config.node, self.config.prefix)
        self.daemon: Daemon | None = None
        self.waits = WAITS
        self.on_start: Callable[[Daemon], None] = lambda daemon: None

    async def _work(self) -> None:
        with suppress(ConfigError):  # an operator would mend the file
            self.config = load_config(self.file)
        config = self.config
        store = Store(config.state_dir, config.node)
        store.clear()
        store.begin_start()
        service = Service(
            store.settled(config),
            nodes=self._others,
            make_process=lambda bundle, hardware, adapters: SimEngine(bundle.path),
        )
        self.daemon = daemon = Daemon(config, service, self.file, store, waits=self.waits)
        daemon.database.clock = time.monotonic
        self.on_start(daemon)
        await daemon.run()

    def stop(self) -> None:
        """Like SIGTERM: the node drains, and ends."""
        if self.is_up and self.process is not None and self.daemon is not None:
            self.process.context.copy().run(self.daemon.request_stop)

    def _forget(self) -> Callable[[], None]:
        daemon, self.daemon = self.daemon, None

        def close() -> None:
            if daemon is not None:
                daemon.database.close()
                if (marks := daemon._journal._marks) is not None:
                    marks.close()

        return close


class SimDispatcher(Program):
    """``dispatcher`` is that of the current process; None while there is none. ``file`` is the
    configuration."""

    def __init__(self, loop: SimLoop, file: Path, disk: Disk) -> None:
        self.settings = settings = load_settings(file)
        super().__init__(loop, settings.name, disk)
        self.client = pool_client_id(settings.broker, settings.prefix, settings.pool)
        """Client identifier of the pool's session, which the dispatchers of the pool share."""
        self.dispatcher: Dispatcher | None = None

    async def _work(self) -> None:
        self.dispatcher = dispatcher = Dispatcher(self.settings)
        dispatcher._database.clock = time.monotonic
        await dispatcher.run()

    @property
    def can_store(self) -> bool:
        """Whether its results are stored on the disk, and not only in its memory while the disk is full."""
        dispatcher = self.dispatcher
        if dispatcher is None:
            return False
        return dispatcher._database.problem is None and not dispatcher._journal._unsaved

    def stop(self) -> None:
        """Like SIGTERM: a dispatcher that leads hands the pool over."""
        if self.is_up and self.process is not None and self.dispatcher is not None:
            self.process.context.copy().run(self.dispatcher.request_stop)

    def _forget(self) -> Callable[[], None]:
        dispatcher, self.dispatcher = self.dispatcher, None

        def close() -> None:
            if dispatcher is not None:
                dispatcher._database.close()
                if (marks := dispatcher._journal._marks) is not None:
                    marks.close()
                if hasattr(dispatcher, "_answered"):
                    dispatcher._answered.close()

        return close
