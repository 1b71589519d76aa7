"""Warm-up: what would cost the first requests of a task something is done while the node is idle.

Prompts are read in advance, and decoders laid out for this machine (``prepare``). Begun anew when other
models serve.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from edgeslm.serving.prepare import Prepacker
from edgeslm.serving.service import Service

log = logging.getLogger("edgeslm.serving")

WARM_AFTER_S: Final = 0.5
"""Without work, before what prompts begin with is read in advance."""


class WarmUp:
    """``is_online`` tells whether the node serves; ``on_change`` is called when an engine runs on what was
    prepared."""

    def __init__(
        self, service: Service, *, is_online: Callable[[], bool], on_change: Callable[[], None]
    ) -> None:
        self._service = service
        self._is_online = is_online
        self._on_change = on_change
        self._prepacker: Prepacker | None = None
        self._work: asyncio.Task[None] | None = None

    @property
    def problems(self) -> list[str]:
        """Which models say other things here than on the build machine."""
        return [] if self._prepacker is None else self._prepacker.problems

    def begin(self) -> None:
        if self._work is not None:
            self._work.cancel()
        self._work = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    def idle_s(self) -> float:
        """For how long the node has had nothing to do, though it was online."""
        scheduler = self._service.scheduler
        has_work = not self._is_online() or scheduler.waiting or scheduler.in_flight
        return 0.0 if has_work else time.monotonic() - scheduler.moved_at

    async def _run(self) -> None:
        while self.idle_s() < WARM_AFTER_S:
            await asyncio.sleep(WARM_AFTER_S)
        config = self._service.config
        try:
            await self._service.warm()
            if config.prepare == "auto":
                self._prepacker = Prepacker(
                    self._service.models, config.state_dir, idle_s=self.idle_s, on_change=self._renewed
                )
                await self._prepacker.run()
        except Exception as error:  # it serves as well without
            log.error("what was to be made ready is not: %s", type(error).__name__)
            log.debug("making ready", exc_info=True)

    async def _renewed(self) -> None:
        self._on_change()
        await self._service.warm()
