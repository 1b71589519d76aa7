"""Home Assistant: publishes discovery messages and withdraws those of removed tasks.

Topics of messages are recorded in a file before they are published, so that a later start can withdraw them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeslm.config.loader import Config
from edgeslm.protocol.delivery import Delivery, Subscription
from edgeslm.storage.atomic_json import write_record
from edgeslm.telemetry.discovery import announcements, status_topic
from edgeslm.telemetry.extension import Announces, Extension, HasTasks

log = logging.getLogger("edgeslm.telemetry")

PAUSE_S = 1.0


class Announcer(Extension):
    """Announces the tasks of ``service`` and the node itself to Home Assistant.

    :param record: file with the topics of published discovery messages.
    :param pause_s: pause between two announcements, since anybody who may publish on Home Assistant's status
        topic can trigger an announcement.
    """

    def __init__(
        self,
        record: Path,
        config: Config,
        service: HasTasks,
        presence: Announces,
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._config = config
        self._service = service
        self._presence = presence
        self._record = record
        self._prefix = config.discovery.prefix
        self._pause_s = pause_s
        self._again = False

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        return [Subscription(status_topic(self._prefix), optional=True)] if self._prefix else ()

    def connected(self) -> None:
        self.announce()

    def take_up(self, config: Config) -> None:
        self._config = config
        self.announce()

    def on_message(self, delivery: Delivery) -> bool:
        """Announces everything again when Home Assistant has started."""
        if delivery.payload == b"online":
            self.announce()
        return False  # a route may read it too

    def announce(self) -> None:
        """Starts a new announcement of everything, at once or after the one that is running."""
        self._again = True
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._again:
            self._again = False
            try:
                await self._send()
            except Exception as error:  # must not disturb requests
                log.error("announcing to Home Assistant failed: %s", type(error).__name__)
                log.debug("announcing", exc_info=True)
            await asyncio.sleep(self._pause_s)

    async def _send(self) -> None:
        tasks = self._service.tasks
        kinds = {name: task.kind for name, task in tasks.items()}
        schemas = {
            name: task.section.output_schema or {} for name, task in tasks.items() if task.kind == "extract"
        }
        wanted, told = announcements(self._config, kinds, schemas), self._told()
        if not wanted and not told:
            return
        self._note({*told, *wanted})
        for topic in sorted(told - set(wanted)):
            await self._presence.retain(topic, b"")
        for topic, document in wanted.items():
            await self._presence.retain(topic, json.dumps(document, ensure_ascii=False).encode())
        self._note(wanted)

    def _told(self) -> set[str]:
        try:
            noted = json.loads(self._record.read_text("utf-8"))
        except FileNotFoundError:
            return set()
        except (OSError, ValueError):
            log.warning("the record of Home Assistant's entities can't be read: %s", self._record)
            return set()
        return {topic for topic in noted if isinstance(topic, str)} if isinstance(noted, list) else set()

    def _note(self, topics: Iterable[str]) -> None:
        wanted = set(topics)
        if self._record.exists() and self._told() == wanted:
            return
        try:
            write_record(self._record, sorted(wanted))
        except OSError as error:
            log.warning("the record of Home Assistant's entities can't be written: %s", error)
