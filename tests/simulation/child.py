"""Base of the simulated child processes of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class BaseChild:
    """Replaces :class:`edgeslm.ipc.process.Child`. ``starts`` counts the processes."""

    def __init__(
        self, sends: Any, takes: Any, on_message: Callable[[Any], None], on_lost: Callable[[str], None]
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self.is_linked = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        return None
