"""Redactor: replaces personal and secret data in the messages of a route, before anything else gets their
texts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from edgeslm.config.route_sections import Route
from edgeslm.errors import Busy, InternalError, ModelUnavailable, NoMemory, RequestError
from edgeslm.messages import Attempt
from edgeslm.serving.service import Service

if TYPE_CHECKING:
    from edgeslm.redaction.patterns import Span
    from edgeslm.redaction.payload import Payload

log = logging.getLogger("edgeslm.node")

LONG: Final = 16_384
"""Number of characters from which a text is searched in a thread, so that other messages go on."""
PAUSES_S: Sequence[float] = (0.5, 2.0, 5.0, 15.0)
"""Pauses between the attempts to ask a model that can't be used now."""
PASSING: Final = (Busy, ModelUnavailable, NoMemory)
"""Errors of a model that can't be used now, but perhaps later."""
T = TypeVar("T")


@dataclass(slots=True)
class Redactor:
    """``service`` has the models."""

    service: Service
    _waiting: set[str] = field(default_factory=set)
    """Routes that wait for their model."""

    async def redact(self, route: Route, text: str, attempt: Attempt) -> str:
        """The redacted text. ``attempt`` records when the text is searched, so that a message that crashes or
        freezes the node isn't read forever.

        :raises RequestError: the text can't be redacted. Nothing else may get it then.
        """
        try:
            return await self._redact(route, text, attempt)
        except (RequestError, MemoryError):
            raise
        except Exception as error:  # it may quote the text
            log.error("redaction failed: %s", type(error).__name__)
            raise InternalError("redaction failed") from None
        finally:
            attempt.wait()

    async def _redact(self, route: Route, text: str, attempt: Attempt) -> str:
        _mark(attempt)
        payload = await _search(len(text), lambda: read_payload(text))
        found = await self._find_names(route, payload, len(text), attempt)
        _mark(attempt)
        return await _search(len(text), lambda: payload.redact(route.exact_kinds, found))

    async def _find_names(
        self, route: Route, payload: Payload, length: int, attempt: Attempt
    ) -> Sequence[Span]:
        """What the route's model finds. :raises RequestError: the model can't be used, or it failed."""
        if route.redact_model is None or not route.named_kinds:
            return ()
        name, text = route.name or route.task or "", await _search(length, payload.for_model)
        for pause_s in (*PAUSES_S, None):
            try:
                found = await self.service.deployment.find_spans(
                    route.redact_model, text, route.named_kinds, route.redact_threshold, attempt
                )
            except PASSING as error:
                if pause_s is None:
                    raise
                attempt.wait()
                if name not in self._waiting:
                    self._waiting.add(name)
                    log.warning("route %s can't redact messages yet: %s", name, error)
                await asyncio.sleep(pause_s)
            else:
                break
        self._waiting.discard(name)
        return found


def read_payload(text: str) -> Payload:
    """:raises InvalidRequest: JSON that is nested too deeply."""
    from edgeslm.redaction.payload import Payload  # its expressions take memory

    return Payload(text)


def _mark(attempt: Attempt) -> None:
    with suppress(Busy):  # the journal is full: go on unmarked
        attempt.compute()


async def _search(length: int, search: Callable[[], T]) -> T:
    return search() if length < LONG else await asyncio.to_thread(search)
