"""Redactor: replaces personal and secret data in the messages of a route, before anything else gets their
texts.

A message that can't be redacted is never passed on: it is reported on ``<base>/dead`` and skipped.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.config.route_sections import Route
from edgeslm.errors import Busy, InternalError, InvalidRequest, RequestError
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
        except MemoryError:
            raise
        except Exception as failure:
            error = failure if isinstance(failure, RequestError) else InternalError("redaction failed")
            request = Request(route.task or "", "", secrets.token_hex(8), delivery.topic)
            await self.publisher.report_dead(request, ErrorBody.of(error))
            return Skip("unredacted", f"it can't be redacted: {error}")
        finally:
            attempt.wait()

    async def _redact(self, route: Route, text: str) -> str:
        if len(text) < LONG:
            return redact_text(text, route.redact)
        return await asyncio.to_thread(redact_text, text, route.redact)


def redact_text(text: str, kinds: Sequence[str]) -> str:
    """See :func:`edgeslm.redaction.payload.redact_payload`."""
    from edgeslm.redaction.payload import redact_payload  # its expressions take memory

    return redact_payload(text, kinds)


def redact_window(window: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """The messages of a window, redacted: those that came before the route had ``redact`` are on the disk as
    they were. Messages that can't be redacted are left out, and count as dropped."""
    kept = []
    for message in window["messages"]:
        with suppress(InvalidRequest):
            texts = {name: redact_text(message[name], kinds) for name in ("id", "text")}
            kept.append({**message, **texts})
    lost = len(window["messages"]) - len(kept)
    return {**window, "messages": kept, "dropped": window["dropped"] + lost}
