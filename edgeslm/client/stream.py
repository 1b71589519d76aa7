"""Streamed answers, for threads and asyncio: pieces of text, then the result.

Leaving the loop over the pieces early cancels the request on the node. Retries are decided in
``pending_request``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator

from edgeslm.client.pending_request import Event, Failed, PendingRequest
from edgeslm.client.queues import LoopQueue, ThreadQueue
from edgeslm.client.session import ClientSession, Inbox
from edgeslm.errors import Cancelled, EdgeslmError
from edgeslm.messages import Chunk, Result

_CLOSED = "The stream was closed before the answer was complete."


class Stream:
    """A streamed answer. Iterate it once, with ``for`` or ``async for``, to get the pieces; then read
    ``result``.

    Iterating sends the request and starts its timeout. Pieces may be missing; the result is complete.
    Iterating raises the same errors as :meth:`edgeslm.client.Client.request`. A ``with`` or ``async with``
    statement closes the stream at its end.
    """

    def __init__(self, session: ClientSession, task: str, cancel_topic: str, pending: PendingRequest) -> None:
        self._session = session
        self._task = task
        self._cancel_topic = cancel_topic
        self._pending = pending
        self._inbox: Inbox | None = None
        self._result: Result | None = None
        self._over = threading.Event()
        # Held while sending, so that close() knows whether the request was sent. Inboxes are filled without
        # it. Reentrant, because a signal handler may close the stream that its own thread is sending.
        self._sending = threading.RLock()
        self._is_advancing = False

    @property
    def result(self) -> Result:
        """The complete answer. :raises EdgeslmError: the answer isn't complete yet."""
        if self._result is None:
            raise EdgeslmError("The answer isn't here yet; iterate to the end of the stream first.")
        return self._result

    def close(self) -> None:
        """Cancels the request on the node; a loop over the stream raises Cancelled. Thread-safe."""
        self._end()
        if self._result is None and self._inbox is not None:
            self._inbox(Failed(Cancelled(_CLOSED)))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Chunk]:
        inbox = ThreadQueue()
        self._begin(inbox.put)
        try:
            event = None
            while not self._advance(event):
                yield from self._taken()
                event = inbox.take(self._pending.wait_s(time.monotonic()))
        finally:
            self._end()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        inbox = LoopQueue()
        self._begin(inbox.put)
        try:
            event = None
            while not self._advance(event):
                for piece in self._taken():
                    yield piece
                event = await inbox.take(self._pending.wait_s(time.monotonic()))
        finally:
            self._end()

    def _begin(self, inbox: Inbox) -> None:
        with self._sending:
            if self._over.is_set() or self._inbox is not None:
                raise EdgeslmError("A stream is iterated once; ask again for another answer.")
            self._pending.begin(time.monotonic())
            self._inbox = inbox
            self._session.enlist(self._task, self._pending.outgoing, inbox)

    def _advance(self, event: Event | None) -> bool:
        """Handles an event. :return: whether the result has arrived."""
        with self._sending:
            if self._over.is_set():
                raise Cancelled(_CLOSED)
            self._is_advancing = True
            try:
                self._result = self._pending.advance(event, time.monotonic())
            finally:
                self._is_advancing = False
            if self._over.is_set() and self._result is None:
                self._pending.abandon(self._cancel_topic, time.monotonic())
                raise Cancelled(_CLOSED)
        return self._result is not None

    def _taken(self) -> list[Chunk]:
        taken, self._pending.chunks = self._pending.chunks, []
        return taken

    def _end(self) -> None:
        with self._sending:
            if self._over.is_set():
                return
            self._over.set()
            if self._inbox is not None:
                self._session.forget(self._pending.outgoing)
                if self._result is None and not self._is_advancing:
                    self._pending.abandon(self._cancel_topic, time.monotonic())
