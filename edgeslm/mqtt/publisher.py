"""Publisher: sends results at QoS 1 when the outbox has room, and dead letters for messages that failed for
good."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from edgeslm.errors import BrokerError, InvalidRequest, TooLarge
from edgeslm.messages import Chunk, ErrorBody, Progress, Request, Result
from edgeslm.mqtt.client import BusClient, NeverFits, OutboxFull
from edgeslm.protocol.codec import Rejected, Topics, encode_chunk, encode_dead, encode_result, error_result
from edgeslm.protocol.delivery import OutgoingMessage

log = logging.getLogger("edgeslm.mqtt")

ROOM_S = 0.2
"""Seconds between attempts to publish while the outbox is full."""


class Publisher:
    """Publishing methods return when the broker has acknowledged the message, or the message was dropped."""

    def __init__(self, bus: BusClient, topics: Topics) -> None:
        self._bus = bus
        self._topics = topics

    async def send(self, request: Request | Rejected, result: Result, payload: bytes) -> None:
        """Publishes a result; also sends a dead letter if the result's error code is ``poisoned``, or if the
        broker refuses the result."""
        await self.resend(request, payload)
        if result.error is not None and result.error.code == "poisoned":
            await self.report_dead(request, result.error)

    async def resend(self, request: Request | Rejected, payload: bytes) -> None:
        """Publishes an encoded result; sends a dead letter if the broker refuses it."""
        expiry_s = None
        if isinstance(request, Request) and request.expires_at is not None:
            expiry_s = max(1, math.ceil(request.expires_at - time.monotonic()))
        message = OutgoingMessage(
            request.reply_to,
            payload,
            correlation=request.correlation,
            expiry_s=expiry_s,
            traceparent=request.trace.header if request.trace else None,
        )
        try:
            try:
                await self.publish(message)
            except NeverFits as error:
                log.warning("the result of request %s is too large to be sent", request.id)
                await self.publish(replace(message, payload=too_large(request.id, request.task, error)))
        except BrokerError as error:
            log.warning("the result of request %s could not be sent: %s", request.id, error)
            await self.report_dead(request, ErrorBody.of(InvalidRequest(str(error))))

    async def publish(self, message: OutgoingMessage) -> None:
        """Publishes a message, and waits for room in the outbox if the broker is slow.

        :raises NeverFits: the message is larger than the outbox.
        :raises BrokerError: the broker refuses the message, or the message can't be published.
        """
        while True:
            try:
                await self._bus.publish(message)
                return
            except OutboxFull:
                await asyncio.sleep(ROOM_S)

    async def report_dead(self, request: Request | Rejected, error: ErrorBody) -> None:
        dead = encode_dead(id=request.id, task=request.task, reply_to=request.reply_to, error=error)
        try:
            await self.publish(OutgoingMessage(self._topics.dead, dead))
        except BrokerError as failure:
            log.error("request %s is given up and can't be reported dead: %s", request.id, failure)

    def chunks_of(self, request: Request) -> Callable[[str], None] | None:
        """A function that publishes the pieces of a streamed answer; None if the request doesn't ask for
        streaming."""
        if not request.options.get("stream"):
            return None
        count = 0

        def send(text: str) -> None:
            nonlocal count
            chunk = Chunk(request.id, count, text)
            if isinstance(text, Progress):
                chunk = replace(chunk, done=text.done, of=text.of)
            self.pass_on(request, chunk)
            count += 1

        return send

    def pass_on(self, request: Request, chunk: Chunk) -> None:
        """Publishes a piece of a streamed answer at QoS 0; the final result has the whole text."""
        payload = encode_chunk(replace(chunk, id=request.id))
        topic = self._topics.stream(request.reply_to)
        self._bus.publish(OutgoingMessage(topic, payload, 0, correlation=request.correlation))


def too_large(id: str, task: str, error: NeverFits) -> bytes:
    """The error result that replaces a result larger than the outbox."""
    why = TooLarge(f"The result can't be sent. {error} Ask for less, or for a part of it.")
    return encode_result(error_result(id, task, why))
