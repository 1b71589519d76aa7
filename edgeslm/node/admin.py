"""Administration of a running node: ping, log level, reload, drain.

A reload is all or nothing: the file is read and checked, new models are loaded next to the running models,
and the node switches over between two requests. A failure before the switch changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edgeslm import __version__
from edgeslm.config.diff import Changes, changes_between
from edgeslm.config.loader import Config, load_config
from edgeslm.errors import Busy, ConfigError, EdgeslmError, InvalidRequest, without_paths
from edgeslm.mqtt.presence import Presence
from edgeslm.protocol.commands import Handler, only, text_argument
from edgeslm.serving.service import Service, SwitchCheck
from edgeslm.telemetry.extension import Extension
from edgeslm.telemetry.systemd import ServiceManager
from edgeslm.update.store import Store

log = logging.getLogger("edgeslm.node")

LEVELS = ("debug", "info", "warning", "error")

_ALERTED = 5
"""Maximum number of errors that the alert about a failed reload lists, since the alert is part of the
retained health message."""


class AdministeredNode(Protocol):
    config: Config
    """The configuration as read from the file. The node may run bundles of the update store instead of the
    bundles that the file names."""

    def take_up(self, config: Config) -> None:
        """Switches to ``config``. The caller has already loaded the models of ``config``."""

    def reloaded(self) -> None:
        """Called after each reload, also if the configuration is the same."""

    def request_stop(self) -> None: ...


class Admin(Extension):
    """Administration commands. ``path`` is the configuration file; if it is None, the node can't reload its
    configuration."""

    def __init__(
        self,
        path: Path | None,
        node: AdministeredNode,
        service: Service,
        store: Store,
        presence: Presence,
        manager: ServiceManager,
    ) -> None:
        self._path = path
        self._node = node
        self._service = service
        self._store = store
        self._presence = presence
        self._manager = manager
        self._started = time.monotonic()
        self.alone = asyncio.Lock()
        """Lock that is held while the node switches to another configuration or bundle."""

    @property
    def config(self) -> Config:
        return self._node.config

    def request_reload(self) -> None:
        """Reloads the configuration in the background, for SIGHUP. A failure is logged and becomes an
        alert."""
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._reload_alone())

    async def _reload_alone(self) -> None:
        with contextlib.suppress(EdgeslmError):
            await self.reload()

    def close(self) -> None:
        self._end_work()

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "ping": self._ping,
            "log_level": self._log_level,
            "reload": self._reload,
            "drain": self._drain,
        }

    async def reload(self) -> Changes:
        """Reads the configuration file again and applies the changes.

        :raises Busy: the node is not online.
        :raises ConfigError: the file is invalid, or a change needs a restart; no change is applied.
        :raises EdgeslmError: a model or collection can't be loaded; the node keeps its configuration.
        """
        if self._path is None:
            raise ConfigError(["this node was started without a configuration file"])
        if self._presence.state != "online":
            raise Busy("the node is starting, or draining")
        async with self.alone:
            self._manager.reloading()
            try:
                changes = await self._take_up(await asyncio.to_thread(load_config, self._path))
            except EdgeslmError as error:
                mistakes = str(error).splitlines()
                told = without_paths("; ".join(mistakes[:_ALERTED]))
                if len(mistakes) > _ALERTED:
                    told += f" (and {len(mistakes) - _ALERTED} more)"
                self.problem = f"The reload failed, the old configuration stays: {told}"
                log.error("the reload failed, the old configuration stays: %s", "; ".join(mistakes))
                raise
            finally:
                self._manager.ready("online")
            self.problem = None
            log.info("configuration reloaded: %s", ", ".join(changes.reloadable) or "nothing has changed")
            return changes

    async def serve_again(self, check: SwitchCheck | None = None) -> None:
        """Redeploys the current configuration after one of its bundles was replaced. The caller must hold the
        lock :attr:`alone`.

        :param check: see ``Service.replace``. :raises EdgeslmError: see :meth:`reload`.
        """
        await self._serve(self.config, check)

    async def _serve(self, config: Config, check: SwitchCheck | None = None) -> None:
        await self._service.replace(self._store.settled(config), check=check)
        was = self.config
        self._node.take_up(config)
        if config.log_level != was.log_level:  # else keep the level that a command set
            logging.getLogger().setLevel(config.log_level.upper())

    async def _take_up(self, config: Config) -> Changes:
        changes = changes_between(self.config, config)
        if changes.restart_required:
            keys = ", ".join(changes.restart_required)
            raise ConfigError([f"{self._path}: {keys}: such a change needs a restart of the node"])
        if changes:
            await self._serve(config)
        self._node.reloaded()
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
        return {"changed": list((await self.reload()).reloadable)}

    async def _drain(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        only(arguments)
        asyncio.get_running_loop().call_later(0.1, self._node.request_stop)  # after the answer is sent
        return {"state": "draining"}
