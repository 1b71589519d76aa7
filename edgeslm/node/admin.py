"""Administration of a running node: ping, log level, reload, drain.

Reloading is all or nothing: the file is read and checked, the models that it adds are loaded beside those at
work, and only then it takes over between two requests. Whatever goes wrong before leaves the node as it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeslm import __version__
from edgeslm.config.diff import Changes, changes_between
from edgeslm.config.loader import Config, load_config
from edgeslm.errors import Busy, ConfigError, EdgeslmError, InvalidRequest, without_paths
from edgeslm.mqtt.client import BusClient, Subscription
from edgeslm.node.pipeline import Pipeline
from edgeslm.protocol.commands import Handler, only, text_argument
from edgeslm.serving.service import BeforeSwitch, Service
from edgeslm.telemetry.systemd import ServiceManager

log = logging.getLogger("edgeslm.node")

LEVELS = ("debug", "info", "warning", "error")


class Admin:
    """``path`` is the configuration's file, None where there is none to read again.

    :param settled: what a configuration's bundles are on this device; others than named may be at work.
    :param stop: ends the node as SIGTERM does.
    :param on_change: called after another configuration was taken up.
    """

    def __init__(
        self,
        path: Path | None,
        config: Config,
        service: Service,
        pipeline: Pipeline,
        bus: BusClient,
        manager: ServiceManager,
        *,
        is_online: Callable[[], bool],
        settled: Callable[[Config], Config],
        stop: Callable[[], None],
        on_change: Callable[[Config], None],
    ) -> None:
        self.config = config
        """As the file has it."""
        self.problem: str | None = None
        """Why the file was not taken up when it was last asked for, in a sentence."""
        self._path = path
        self._service = service
        self._pipeline = pipeline
        self._bus = bus
        self._manager = manager
        self._is_online = is_online
        self._settled = settled
        self._stop = stop
        self._on_change = on_change
        self._started = time.monotonic()
        self._one_at_a_time = asyncio.Lock()

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "ping": self._ping,
            "log_level": self._log_level,
            "reload": self._reload,
            "drain": self._drain,
        }

    async def reload(self) -> Changes:
        """Reads the file again and takes up what changed.

        :raises Busy: the node is not online.
        :raises ConfigError: the file is wrong, or has changes that wait for the next start; nothing is
            taken up then.
        :raises EdgeslmError: models or collections of it can't be loaded; the node goes on as before.
        """
        if self._path is None:
            raise ConfigError(["this node was started without a configuration file"])
        if not self._is_online():
            raise Busy("the node is starting, or draining")
        async with self._one_at_a_time:
            self._manager.reloading()
            try:
                changes = await self._take_up(await asyncio.to_thread(load_config, self._path))
            except EdgeslmError as error:
                first = without_paths(str(error).partition("\n")[0])
                self.problem = f"The changed configuration is not taken up: {first}"
                log.error("the configuration stays as it was: %s", error)
                raise
            finally:
                self._manager.ready("online")
            self.problem = None
            log.info("configuration taken up: %s", ", ".join(changes.taken_up) or "nothing has changed")
            return changes

    @property
    def is_online(self) -> Callable[[], bool]:
        """Whether the node serves now."""
        return self._is_online

    async def serve_again(
        self, *, before: Callable[[], None] = lambda: None, check: BeforeSwitch | None = None
    ) -> None:
        """Puts the present configuration to work anew, since a bundle of it is another one now.

        :param before: makes that so, while nothing else is taken up. :param check: see ``Service.replace``.
        :raises EdgeslmError: see :meth:`reload`.
        """
        async with self._one_at_a_time:
            before()
            await self._serve(self.config, check)

    async def _serve(self, config: Config, check: BeforeSwitch | None = None) -> None:
        before = self._subscriptions
        await self._service.replace(self._settled(config), before=check)
        was, self.config = self.config, config
        self._pipeline.take_up(config)
        after = self._subscriptions
        self._bus.subscribe(one for one in after.values() if before.get(one.filter) != one)
        self._bus.unsubscribe(before.keys() - after.keys())
        if config.log_level != was.log_level:  # what a command set stays
            logging.getLogger().setLevel(config.log_level.upper())
        self._on_change(config)

    @property
    def _subscriptions(self) -> dict[str, Subscription]:
        wanted = (Subscription(one) if isinstance(one, str) else one for one in self._pipeline.subscriptions)
        return {one.filter: one for one in wanted}

    async def _take_up(self, config: Config) -> Changes:
        changes = changes_between(self.config, config)
        if changes.held_back:
            keys = ", ".join(changes.held_back)
            raise ConfigError([f"{self._path}: {keys}: such a change needs a restart of the node"])
        if changes:
            await self._serve(config)
        return changes

    async def _ping(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments)
        return {"version": __version__, "uptime_s": round(time.monotonic() - self._started)}

    async def _log_level(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments, "level")
        level = text_argument(arguments, "level")
        if level not in LEVELS:
            raise InvalidRequest(f"The level is one of {', '.join(LEVELS)}.")
        logging.getLogger().setLevel(level.upper())
        return {"level": level}

    async def _reload(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments)
        return {"changed": list((await self.reload()).taken_up)}

    async def _drain(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments)
        asyncio.get_running_loop().call_later(0.1, self._stop)  # the answer goes before
        return {"state": "draining"}
