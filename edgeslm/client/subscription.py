"""Subscriptions of the client: state, info, health and events of nodes, and other topics."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgeslm.client.pending_request import Event, Failed, Heard, Lost
from edgeslm.client.queues import LoopQueue, ThreadQueue
from edgeslm.client.session import ClientSession
from edgeslm.errors import BrokerError, EdgeslmError, InvalidRequest, ProtocolError, TimedOut
from edgeslm.messages import Result
from edgeslm.protocol.codec import parse_result
from edgeslm.protocol.strict_json import decode_text, parse_json

MOST_WAITING = 10_000
"""Maximum number of messages in the queue of a subscription; further messages are dropped and counted in
``missed``."""

AnyInbox = TypeVar("AnyInbox", ThreadQueue, LoopQueue)


@dataclass(frozen=True, slots=True)
class News:
    """A message of a subscription. If ``retained`` is true, the broker had stored the message, so it may be
    outdated."""

    topic: str
    payload: bytes = field(repr=False)
    retained: bool

    def json(self) -> Any:
        """The parsed payload. :raises ProtocolError: the payload isn't JSON."""
        try:
            return parse_json(decode_text(self.payload))
        except InvalidRequest as error:
            raise ProtocolError(f"The message on {self.topic} is not JSON. {error}") from None

    def result(self) -> Result:
        """The payload as a result. :raises ProtocolError: the payload isn't a result."""
        return parse_result(self.payload)


class Listening:
    """A subscription. Iterate it with ``for`` or ``async for`` to get messages, until the subscription or the
    client is closed.

    A ``with`` or ``async with`` statement subscribes at its start; without such a statement, the client
    subscribes when the iteration starts. The subscription survives broken connections. Messages published
    during an interruption arrive if the broker keeps the session. Iterating raises TimedOut after
    ``timeout_s`` seconds without a message, and BrokerError if the broker refuses the subscription.
    ``missed`` counts messages dropped because the queue was full.
    """

    def __init__(
        self, session: ClientSession, filters: Sequence[str], *, timeout_s: float | None, patience_s: float
    ) -> None:
        self._session = session
        self._filters = filters
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._key = secrets.token_bytes(16)
        self._inbox: ThreadQueue | LoopQueue | None = None
        self._early: list[News] = []
        self._is_closed = False
        self.missed = 0

    def close(self) -> None:
        """Ends the iteration; any thread may call it."""
        self._is_closed = True
        self._session.stop_listening(self._key)
        if self._inbox is not None:
            self._inbox.put(Failed(BrokerError("The subscription was closed.")))

    def __enter__(self) -> Listening:
        inbox = self._begin(ThreadQueue())
        try:
            give_up_at = time.monotonic() + self._patience_s
            while not self._is_ready(give_up_at):
                self._keep(inbox.take(give_up_at - time.monotonic()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Listening:
        inbox = self._begin(LoopQueue())
        try:
            give_up_at = time.monotonic() + self._patience_s
            while not self._is_ready(give_up_at):
                self._keep(await inbox.take(give_up_at - time.monotonic()))
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[News]:
        if self._inbox is None:
            with self:
                yield from self
            return
        if not isinstance(self._inbox, ThreadQueue):
            raise EdgeslmError("A subscription opened by `async with` is iterated by `async for`.")
        while not self._is_over:
            news = self._early.pop(0) if self._early else self._read(self._inbox.take(self._timeout_s))
            if news is not None:
                yield news

    async def __aiter__(self) -> AsyncIterator[News]:
        if self._inbox is None:
            async with self:
                async for news in self:
                    yield news
            return
        if not isinstance(self._inbox, LoopQueue):
            raise EdgeslmError("A subscription opened by `with` is iterated by `for`.")
        while not self._is_over:
            heard = self._early.pop(0) if self._early else self._read(await self._inbox.take(self._timeout_s))
            if heard is not None:
                yield heard

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._session.is_closed

    def _begin(self, inbox: AnyInbox) -> AnyInbox:
        if self._inbox is not None or self._is_closed:
            raise EdgeslmError("A subscription is used once; call listen() again.")
        self._inbox = inbox

        def put(event: Event) -> None:
            if isinstance(event, Heard) and len(inbox) >= MOST_WAITING:
                self.missed += 1
            else:
                inbox.put(event)

        self._session.listen(self._filters, self._key, put)
        return inbox

    def _is_ready(self, give_up_at: float) -> bool:
        if self._session.has_confirmed(self._filters) or self._is_over:
            return True
        if time.monotonic() >= give_up_at:
            raise BrokerError(self._session.problem or "The broker doesn't answer.")
        return False

    def _keep(self, event: Event | None) -> None:
        if event is not None and (news := self._read(event)) is not None:
            self._early.append(news)

    def _read(self, event: Event | None) -> News | None:
        match event:
            case None:
                raise TimedOut(f"Nothing came on {', '.join(self._filters)} within {self._timeout_s:g} s.")
            case Heard(topic, payload, retained):
                return News(topic, payload, retained)
            case Lost(_, problem) if problem.fatal:
                raise BrokerError(problem.sentence)
            case Failed(error) if not self._is_over:
                raise error
        return None
