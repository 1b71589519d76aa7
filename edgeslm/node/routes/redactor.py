"""Redactor: replaces personal and secret data in the messages of a route, before anything else gets their
texts.

A message that can't be redacted is never passed on: it is reported on ``<base>/dead`` and skipped.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from edgeslm.config.route_sections import Route
from edgeslm.errors import Busy, RequestError
from edgeslm.messages import Attempt, ErrorBody, Request
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.routes.route import Skip, Unredacted
from edgeslm.protocol.delivery import Delivery

LONG: Final = 16_384
"""Number of characters from which a text is searched in a thread, so that other messages go on."""


@dataclass(slots=True)
class Redactor:
    """``publisher`` reports the messages that can't be redacted."""

    publisher: Publisher

    async def redact(
        self, route: Route, delivery: Delivery, message: Unredacted, attempt: Attempt
    ) -> str | Skip:
        """The redacted text, or why the message is skipped. ``attempt`` records when the text is searched,
        so that a message that freezes the node isn't read forever."""
        try:
            with suppress(Busy):  # the journal is full: go on unmarked
                attempt.compute()
            return await self._redact(route, message.text)
        except RequestError as error:
            request = Request(route.task or "", "", secrets.token_hex(8), delivery.topic)
            await self.publisher.report_dead(request, ErrorBody.of(error))
            return Skip("unredacted", f"it can't be redacted: {error}")
        finally:
            attempt.wait()

    async def _redact(self, route: Route, text: str) -> str:
        if len(text) < LONG:
            return _replace(text, route)
        return await asyncio.to_thread(_replace, text, route)


def _replace(text: str, route: Route) -> str:
    from edgeslm.redaction.payload import Payload  # its expressions take memory

    return Payload(text).redact(route.redact)
