"""A node whose process may be killed at any step, and starts again on the same disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeslm.config.loader import Config, load_config
from edgeslm.errors import ConfigError
from edgeslm.mqtt.broker_address import client_id_of
from edgeslm.node.daemon import WAITS, Daemon
from edgeslm.protocol.codec import Topics
from edgeslm.serving.service import Service
from edgeslm.update.store import Store
from tests.simulation.disk import Disk
from tests.simulation.engine import SimEngine
from tests.simulation.loop import OUTSIDE, Place, Process, SimLoop, bury
from tests.simulation.others import OtherNodes

RESTART_S = (0.05, 1.5)


class SimNode:
    """``daemon`` is that of the current process; None while there is none. ``boots`` counts the processes.

    ``file`` is the configuration, and ``others`` are the nodes that this node may ask. ``on_start`` is called
    in each new process with its daemon, before it runs.
    """

    def __init__(self, loop: SimLoop, file: Path, disk: Disk, others: OtherNodes) -> None:
        self.loop = loop
        self._others = others
        self.file = file
        self.config: Config = load_config(file)
        self.name = self.config.node
        self.client = client_id_of(self.config)
        self.topics = Topics(self.config.node, self.config.prefix)
        self.disk = disk
        self.process: Process | None = None
        self.daemon: Daemon | None = None
        self.boots = 0
        self.waits = WAITS
        self.kill_at: dict[Place, int] = {}
        """Places of the code, and at which visit this or a later process is killed there."""
        self.on_start: Callable[[Daemon], None] = lambda daemon: None
        self.on_killed: Callable[[], None] = lambda: None
        self.on_ended: Callable[[BaseException | None], None] = lambda failure: None

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
        self.daemon = None

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work in the node's process, which is up."""
        if self.process is not None:
            self.process.context.copy().run(self.loop.create_task, work)

    def stop(self) -> None:
        """Like SIGTERM: the node drains, and ends."""
        if self.is_up and self.process is not None and self.daemon is not None:
            self.process.context.copy().run(self.daemon.request_stop)

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
        daemon, self.daemon = self.daemon, None
        bury(process)
        if daemon is not None:
            daemon.database.close()
            if (marks := daemon._journal._marks) is not None:
                marks.close()
