"""Background prepacking: prepacks decoders for this machine while the node is idle.

A child process prepacks at low priority (``engine.prepack``). If prepacking fails, the problem is reported
and the model keeps running without prepacked weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from edgeslm.engine.prepack.prepare import prepare
from edgeslm.engine.worker.prepared import CACHE, folder_of, mark_used
from edgeslm.errors import EdgeslmError, SelfTestError
from edgeslm.serving.model_pool import ModelPool

log = logging.getLogger("edgeslm.serving")

MARK_EVERY_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class QuietTimes:
    """Seconds that the node must be idle before prepacking starts or continues."""

    first_s: float = 10.0
    """Idle time before prepacking starts, so that requests queued at the start of the node come first."""
    next_s: float = 5.0
    """Idle time before an engine is restarted, or the next model is prepacked."""


QUIET: Final = QuietTimes()


class IdleNode(Protocol):
    def idle_s(self) -> float:
        """Seconds since the node last had work."""

    async def renewed(self) -> None:
        """Called after an engine was restarted with prepacked weights."""


class Prepacker:
    """Prepacks those decoders of ``models`` that have no prepacked weights."""

    def __init__(self, models: ModelPool, state_dir: Path, node: IdleNode, quiet: QuietTimes = QUIET) -> None:
        self._quiet = quiet
        self._models = models
        self._state_dir = state_dir
        self._node = node
        self.problems: list[str] = []
        """Sentences for users about models that failed the self-test."""

    async def run(self) -> None:
        """Prepacks decoders that have no prepacked weights, then marks prepacked weights as used, once a day.
        Cancelling ends the child process at once."""
        await self._until_idle(self._quiet.first_s)
        same: dict[tuple[str, str | None], list[str]] = {}
        for name in self._models.names:
            if self._models.can_be_prepared(name):
                same.setdefault((self._models.bundle(name).digest, self._models.graph(name)), []).append(name)
        for names in same.values():
            await self._until_idle(self._quiet.next_s)
            if await self._make(names):
                for name in names:
                    await self._renew(name)
        while True:
            self._mark_used()
            await asyncio.sleep(MARK_EVERY_S)

    async def _until_idle(self, quiet_s: float) -> None:
        while (idle_s := self._node.idle_s()) < quiet_s:
            await asyncio.sleep(quiet_s - idle_s)

    async def _make(self, names: Sequence[str]) -> bool:
        """Prepacks the bundle that the models ``names`` share.

        :return: whether prepacking succeeded.
        """
        bundle, graph = self._models.bundle(names[0]), self._models.graph(names[0]) or ""
        log.info("%s is being prepared for this machine", bundle.path)
        keep = [self._models.bundle(name).digest for name in self._models.names]
        try:
            index = await prepare(bundle, graph, self._state_dir, background=True, keep=keep)
        except (EdgeslmError, OSError, ValueError) as error:
            log.warning("%s is not prepared until the next start: %s", bundle.path, error)
            if isinstance(error, SelfTestError):
                said = str(error).removeprefix(f"{bundle.path}: ")  # paths stay on this machine
                self.problems.append(f"Model {', '.join(names)}: {said}.")
            return False
        log.info(
            "%s is prepared: %s",
            bundle.path,
            "; ".join(line.strip(" .") for line in index.render().splitlines()),
        )
        return True

    async def _renew(self, name: str) -> None:
        try:
            await self._until_idle(self._quiet.next_s)
            while not await self._models.renew(name):
                await asyncio.sleep(self._quiet.next_s)
        except EdgeslmError as error:  # the next call retries
            log.error("model %s could not be restarted with prepared weights: %s", name, error)
            return
        await self._node.renewed()

    def _mark_used(self) -> None:
        """Marks prepacked weights as used. Engines mark weights only when loading, and other nodes with the
        same state folder remove weights that seem unused."""
        for name in self._models.names:
            graph = self._models.graph(name)
            if graph is not None and self._models.is_prepared(name):
                mark_used(folder_of(self._models.bundle(name), graph, self._state_dir / CACHE))
