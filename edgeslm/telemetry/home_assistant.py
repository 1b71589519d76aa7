"""Home Assistant: told what a node has, and what it has no more.

What was told is noted in a file before it is sent, so that it can be taken back by a later start too. Knows
no broker: what publishes is handed in.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeslm.storage.atomic_json import write_record

log = logging.getLogger("edgeslm.telemetry")

PAUSE_S = 1.0
"""Between two announcements: whoever may write to Home Assistant's status topic can ask for them."""

Publish = Callable[[str, bytes], Awaitable[None]]


class Announcer:
    """``wanted`` says what there is, documents by topic; ``publish`` sends a retained message."""

    def __init__(
        self, record: Path, wanted: Callable[[], Mapping[str, Mapping[str, Any]]], publish: Publish
    ) -> None:
        self._record = record
        self._wanted = wanted
        self._publish = publish
        self._work: asyncio.Task[None] | None = None
        self._again = False

    def announce(self) -> None:
        """Sends all of it again, soon; while that is going on, once more after it."""
        self._again = True
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())

    def heard(self, payload: bytes) -> None:
        """What Home Assistant says on its status topic: when it has started, it is told all of it again."""
        if payload == b"online":
            self.announce()

    async def stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _run(self) -> None:
        while self._again:
            self._again = False
            try:
                await self._send()
            except Exception as error:  # nobody's request depends on it
                log.error("Home Assistant was not told of everything: %s", type(error).__name__)
                log.debug("announcing", exc_info=True)
            await asyncio.sleep(PAUSE_S)

    async def _send(self) -> None:
        wanted, told = self._wanted(), self._told()
        if not wanted and not told:
            return
        self._note({*told, *wanted})
        for topic in sorted(told - set(wanted)):
            await self._publish(topic, b"")
        for topic, document in wanted.items():
            await self._publish(topic, json.dumps(document, ensure_ascii=False).encode())
        self._note(wanted)

    def _told(self) -> set[str]:
        try:
            noted = json.loads(self._record.read_text("utf-8"))
        except FileNotFoundError:
            return set()
        except (OSError, ValueError):
            log.warning("what Home Assistant was told before can't be read: %s", self._record)
            return set()
        return {topic for topic in noted if isinstance(topic, str)} if isinstance(noted, list) else set()

    def _note(self, topics: Iterable[str]) -> None:
        wanted = set(topics)
        if self._record.exists() and self._told() == wanted:
            return
        try:
            write_record(self._record, sorted(wanted))
        except OSError as error:
            log.warning("what Home Assistant is told can't be noted: %s", error)
