"""Simulated knowledge processes, which store the messages that routes remember."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeslm.ipc.pipe import Refused
from edgeslm.knowledge.index.queries import Memory
from edgeslm.knowledge.service.frames import Failed, Ready, Remember, Remembered
from tests.simulation.child import BaseChild


@dataclass
class KnowledgeWorld:
    """``fails`` is called for each message and says whether the process ends at it (``end``), refuses it
    (``refuse``) or stores it; ``on_stored`` is called for those on the disk. ``refuses_starts`` is the share
    of the processes that can't open their collection."""

    chance: random.Random
    fails: Callable[[Memory], str] = lambda memory: ""
    refuses_starts: float = 0.1
    on_stored: Callable[[Memory], None] = lambda memory: None


KNOWLEDGE: list[KnowledgeWorld] = []
"""The world of the current run."""


class SimKnowledgeChild(BaseChild):
    """Replaces :class:`edgeslm.ipc.process.Child` of the collections."""

    async def start(
        self, command: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.is_linked = True
        self.starts += 1
        self._world = KNOWLEDGE[-1]
        is_refused = self._world.chance.random() < self._world.refuses_starts
        said = Refused("the collection can't be opened") if is_refused else Ready()
        self._later(self.starts, self._on_message, said)

    def _later(self, start: int, call: Callable[..., None], *values: Any) -> None:
        def run() -> None:
            if self.is_linked and start == self.starts:
                call(*values)

        asyncio.get_running_loop().call_later(self._world.chance.uniform(0.001, 0.1), run)

    def send(self, message: Any) -> None:
        if self.is_linked and isinstance(message, Remember):
            self._later(self.starts, self._keep, message)

    def _keep(self, asked: Remember) -> None:
        memory = asked.memory
        what = self._world.fails(memory)
        if what == "end":
            self.bury()
            self._on_lost("signal 9")
        elif what == "refuse":
            self._on_message(Failed(asked.number, "the disk is full"))
        else:
            self._world.on_stored(memory)
            self._on_message(Remembered(asked.number))

    def bury(self) -> str:
        self.is_linked = False
        return "signal 9"

    async def stop(self, grace_s: float) -> bool:
        self.is_linked = False
        await asyncio.sleep(0.001)
        return False
