"""Ingest: stores messages of routes as searchable documents of a collection.

A message is acknowledged once it is stored on disk. A full disk must not block later messages: if the last
retry fails, the message is dropped and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from edgeslm.config.loader import Route
from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.queries import Memory
from edgeslm.protocol.delivery import Delivery
from edgeslm.serving.service import Service
from edgeslm.telemetry.health import Meter

log = logging.getLogger("edgeslm.node")

LONGEST_ID = 64
"""Maximum number of characters of a message's id that become part of the document's source."""
PAUSES_S = (0.5, 2.0, 5.0, 15.0)


@dataclass(slots=True)
class Ingest:
    """``service`` contains the collections; ``meter`` counts dropped messages. ``pauses_s`` are the pauses
    between retries."""

    service: Service
    meter: Meter
    pauses_s: Sequence[float] = PAUSES_S

    async def keep(
        self, route: Route, delivery: Delivery, text: str, key: bytes | None, id: str | None = None
    ) -> None:
        """Returns when the message is stored or dropped. A redelivered message has the same ``key`` and is
        stored only once. ``id`` is the id in the message's payload, if any."""
        if route.remember is None:
            return
        if delivery.retain:  # the broker brings it again with each connection
            said = text.encode("utf-8", "replace") if route.redact else delivery.payload
            name = hashlib.sha256(said).hexdigest()[:12]
        else:
            name = secrets.token_hex(6) if key is None else key.hex()[:12]
        if id is not None:
            name = f"{' '.join(id.split())[:LONGEST_ID]} {name}"
        received = time.time() - (time.monotonic() - delivery.received_at)
        memory = Memory(delivery.topic, name, text, received, route.keep_s)
        for pause_s in (*self.pauses_s, None):
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
