"""Ingest: messages of routes become documents of a collection, to be searched like others.

A message counts as kept when it is on the disk; until then the pipeline doesn't acknowledge it. A disk that
stays full must not hold back all that follows: after some tries a message is given up, and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from dataclasses import dataclass

from edgeslm.config.loader import Route
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.queries import Memory
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.node")

LONGEST_ID = 64
"""Characters of a message's own id that its source has."""
PAUSES_S = (0.5, 2.0, 5.0, 15.0)
"""Between the tries."""


@dataclass(slots=True)
class Ingest:
    """``service`` has the node's present library; ``meter`` counts what is given up, by its reason."""

    service: Service
    meter: Meter

    async def keep(
        self, route: Route, delivery: Delivery, text: str, key: bytes | None, id: str | None = None
    ) -> None:
        """Returns when the message is kept or given up. One that is delivered again, with the same ``key``,
        is kept once. ``id`` is the message's own, if it has one."""
        if route.remember is None:
            return
        if delivery.retain:  # the broker brings it again with each connection
            name = hashlib.sha256(delivery.payload).hexdigest()[:12]
        else:
            name = secrets.token_hex(6) if key is None else key.hex()[:12]
        if id is not None:
            name = f"{' '.join(id.split())[:LONGEST_ID]} {name}"
        received = time.time() - (time.monotonic() - delivery.received_at)
        memory = Memory(delivery.topic, name, text, received, route.keep_s)
        for pause_s in (*PAUSES_S, None):
            try:
                await self.service.library.remember(route.remember, memory)
                return
            except KnowledgeError as error:
                if pause_s is None:
                    log.error("a message for %s is given up: %s", route.remember, error)
                    self.meter.drop("not_remembered")
                else:
                    log.warning("a message for %s can't be kept yet: %s", route.remember, error)
                    await asyncio.sleep(pause_s)
