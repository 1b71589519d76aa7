"""Other nodes that a simulated node asks if its own models aren't sure."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping
from typing import Any

from edgeslm.errors import BrokerError
from edgeslm.messages import ErrorBody, Result

LABELS = ("good", "bad")


def label_of(text: str) -> str:
    """The right label of a text."""
    return LABELS[_digest(text)[0] % 2]


def is_hard(text: str) -> bool:
    """Whether the node's own model isn't sure, so that another node is asked."""
    return _digest(text)[1] < 128


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class OtherNodes:
    """Replaces :class:`edgeslm.node.peers.Peers`. The other node may be away or slow, or answers an error."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def ask(
        self,
        node: str,
        task: str,
        input: str | Mapping[str, Any],
        timeout_s: float,
        options: Mapping[str, Any],
    ) -> Result:
        found = self._chance.random()
        await asyncio.sleep(min(timeout_s, self._chance.choice((0.02, 0.3, 5.0))))
        if found < 0.1:
            raise BrokerError(f"the node {node} is offline")
        if found < 0.2:
            return Result("0", task, "error", error=ErrorBody("busy", "it has too much to do"))
        label = label_of(str(input))
        return Result("0", task, "ok", {"label": label, "confidence": 0.97, "scores": {label: 0.97}})

    async def close(self) -> None:
        await asyncio.sleep(0.001)
