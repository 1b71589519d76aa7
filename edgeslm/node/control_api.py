"""The control API: runs commands that come over MQTT and publishes their answers.

The control API is off unless ``control.allow`` names commands. A retained command is ignored, since the
broker would repeat it at every start. A command runs at most once. A command sent while the node is offline
waits at the broker; a command that was interrupted when the node stopped is not retried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Final

from edgeslm.errors import BrokerError, Busy, EdgeslmError, InternalError, InvalidRequest, RequestError
from edgeslm.messages import ErrorBody
from edgeslm.mqtt.client import BusClient
from edgeslm.protocol.codec import Topics
from edgeslm.protocol.commands import Handler, encode_answer, parse_command
from edgeslm.protocol.delivery import Delivery, OutgoingMessage, Subscription
from edgeslm.telemetry.audit import AuditLog
from edgeslm.telemetry.extension import Extension

log = logging.getLogger("edgeslm.node")

MOST_RUNNING: Final = 4


class ControlApi(Extension):
    """``handlers`` maps command names to functions. A command is served only if the first level of its name,
    such as ``models`` in ``models/activate``, is in ``allowed``."""

    def __init__(
        self,
        bus: BusClient,
        topics: Topics,
        audit: AuditLog,
        allowed: Collection[str],
        handlers: Mapping[str, Handler],
    ) -> None:
        self._bus = bus
        self._topics = topics
        self._audit = audit
        self._handlers = {
            name: handler for name, handler in handlers.items() if name.split("/")[0] in allowed
        }
        self._names = {topics.control(name): name for name in self._handlers}
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def subscriptions(self) -> list[Subscription]:
        return [Subscription(topic) for topic in self._names]

    def on_message(self, delivery: Delivery) -> bool:
        """Acknowledges a command before running it: some commands take minutes, and MQTT requires
        acknowledgements in order."""
        self._audit.note("command", topic=delivery.topic, bytes=delivery.size)
        if not self._closed:  # unacknowledged, so the broker delivers it at the next start
            self._take(delivery)
        return True

    def _take(self, delivery: Delivery) -> None:
        self._bus.ack(delivery)
        name = self._names[delivery.topic]
        if delivery.retain:
            log.warning("a retained message on %s is ignored; send commands without retain", delivery.topic)
            return
        is_full = len(self._running) >= MOST_RUNNING
        task = asyncio.create_task(self._run(name, delivery, is_full=is_full))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Accepts no more commands, and cancels running commands."""
        self._closed = True
        for task in self._running:
            if not task.cancelling():
                task.cancel()

    async def _run(self, name: str, delivery: Delivery, *, is_full: bool) -> None:
        id = None
        try:
            command = parse_command(name, delivery.payload, delivery.correlation)
            id = command.id
            if is_full:
                raise Busy(f"{MOST_RUNNING} commands are being run; try again later")
            log.info("command %s", name)
            answer = encode_answer(name, id, result=await self._handlers[name](command.arguments))
        except EdgeslmError as error:
            log.warning("command %s is refused: %s", name, error)
            answer = encode_answer(name, id, error=_body(error))
        except Exception as error:  # a bug; the client still needs an answer
            log.error("command %s failed: %s", name, type(error).__name__)
            log.debug("command %s", name, exc_info=True)
            why = InternalError(f"the node failed on it ({type(error).__name__})")
            answer = encode_answer(name, id, error=_body(why))
        try:
            topic = self._topics.control_result(name)
            await self._bus.publish(OutgoingMessage(topic, answer, correlation=delivery.correlation))
        except BrokerError as error:
            log.warning("the answer to command %s could not be sent: %s", name, error)


def _body(error: EdgeslmError) -> ErrorBody:
    return ErrorBody.of(error if isinstance(error, RequestError) else InvalidRequest(str(error)))
