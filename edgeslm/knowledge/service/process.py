"""Knowledge process handle: starts the process, sends it requests, and restarts it if it dies.

The module imports neither numpy nor an engine; the caller passes in the embedding function.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from edgeslm.errors import KnowledgeError
from edgeslm.ipc.codec import FrameError
from edgeslm.ipc.job import PYTHON
from edgeslm.ipc.pipe import Refused
from edgeslm.ipc.process import Child, RestartBackoff
from edgeslm.knowledge.index.queries import (
    CollectionSpec,
    DocumentList,
    DocumentText,
    Found,
    Memory,
    Query,
    TableAnswer,
    encode_spec,
)
from edgeslm.knowledge.service.frames import (
    FROM_COLLECTIONS,
    TO_COLLECTIONS,
    Browse,
    Browsed,
    Compute,
    Computed,
    Embed,
    Failed,
    NodeMessage,
    Passages,
    Ready,
    Remember,
    Remembered,
    SearchPassages,
    Trouble,
    Vectors,
    WorkerMessage,
)

log = logging.getLogger("edgeslm.knowledge")

COMMAND: tuple[str, ...] = (*PYTHON, "edgeslm.knowledge.service.worker")
STOP_GRACE_S = 5.0
AGAIN_S = 1.0
TRIES = 2
"""Maximum number of attempts for a request. A request interrupted by a crash is repeated, since requests are
idempotent."""


class EmbedTexts(Protocol):
    """Function that embeds texts with a collection's encoder."""

    def __call__(self, collection: str, texts: Sequence[str], /) -> Awaitable[Sequence[Sequence[float]]]: ...


_Answer = TypeVar("_Answer", Passages, Computed, Remembered, Browsed)


class _EndedError(KnowledgeError):
    """The process exited during a request."""


class KnowledgeProcess:
    """Handle of the one process that serves all collections of a node; for use by one event loop.

    :param embed: embeds added passages; if it raises, embedding is retried later.
    :param again_s: seconds before the first restart of a crashed process that updates collections.
    """

    def __init__(
        self,
        specs: Sequence[CollectionSpec],
        *,
        embed: EmbedTexts,
        log_level: str = "WARNING",
        command: Sequence[str] = COMMAND,
        again_s: float = AGAIN_S,
    ) -> None:
        self._specs = specs
        self._names = {spec.name for spec in specs}
        self._embed = embed
        self._log_level = log_level
        self._command = command
        self._child = Child(TO_COLLECTIONS, FROM_COLLECTIONS, self._handle, self._lost)
        self._ready: asyncio.Future[None] | None = None
        self._pending: dict[int, tuple[type, asyncio.Future[Any]]] = {}
        """Request number -> expected answer type and future."""
        self._number = 0
        self._troubles: dict[str, str] = {}
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._embeds_for = 0
        """Start count (``Child.starts``) of the process that requested the embedding in progress; 0 if no
        embedding is in progress."""
        self._stopped = False
        self._ready_at: float | None = None
        """Time on the loop's clock when the process became ready; None while no process is ready."""
        self._backoff = RestartBackoff(again_s)
        self._again: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def problems(self) -> list[str]:
        """Sentences that say why collections are not up to date."""
        return [f"The collection {name}: {why}." for name, why in sorted(self._troubles.items())]

    async def start(self) -> None:
        """Starts the process and waits until its collections are open; does nothing if the process runs.

        :raises KnowledgeError: a collection can't be used, or the process can't be started.
        """
        async with self._starting:
            if self._child.is_linked or self._stopped:
                return
            arguments = [self._log_level, *(encode_spec(spec) for spec in self._specs)]
            try:
                await self._child.start(self._command, arguments)
            except OSError as error:
                raise KnowledgeError(f"collections can't be opened: {error.strerror}") from None
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            try:
                await self._ready
                self._ready_at = loop.time()
            except BaseException:
                self._child.bury()
                self._fail(KnowledgeError("the collections were not opened"))
                raise

    async def search(self, query: Query) -> list[Found]:
        """:raises KnowledgeError: a collection can't be searched."""
        return list((await self._ask(Passages, SearchPassages(0, query))).found)

    async def compute(self, query: Query) -> TableAnswer | None:
        """:raises KnowledgeError: a collection can't be read."""
        return (await self._ask(Computed, Compute(0, query))).answer

    async def remember(self, collection: str, memory: Memory) -> None:
        """Returns when the message is on disk.

        :raises KnowledgeError: the message can't be written.
        """
        await self._ask(Remembered, Remember(0, collection, memory))

    async def documents(self, collection: str) -> DocumentList:
        """:raises KnowledgeError: the collection can't be read."""
        found = (await self._ask(Browsed, Browse(0, collection))).found
        if not isinstance(found, DocumentList):
            raise KnowledgeError("the documents can't be listed")
        return found

    async def read(self, collection: str, source: str) -> DocumentText | None:
        """The text of a document; None if there is no such document.

        :raises KnowledgeError: the collection can't be read.
        """
        found = (await self._ask(Browsed, Browse(0, collection, source))).found
        return found if isinstance(found, DocumentText) else None

    async def stop(self) -> None:
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        self._fail(KnowledgeError("the node is stopping"))
        await self._child.stop(STOP_GRACE_S)  # safe to kill: an open transaction is rolled back

    async def _ask(self, answer: type[_Answer], asked: NodeMessage) -> _Answer:
        """:param asked: the request; each attempt gives it a new number."""
        attempt = 1
        while True:
            await self.start()
            if not self._child.is_linked:
                raise KnowledgeError("the node is stopping")
            self._number += 1
            future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
            try:
                self._child.send(replace(asked, number=self._number))
            except FrameError as error:
                raise KnowledgeError(f"the question can't be sent to the collections: {error}") from None
            number = self._number
            self._pending[number] = answer, future
            try:
                return await future
            except _EndedError:
                if attempt == TRIES:
                    raise
                attempt += 1
            finally:
                self._pending.pop(number, None)

    def _handle(self, said: WorkerMessage) -> None:
        if isinstance(said, Ready | Refused):
            if self._ready is not None and not self._ready.done():
                if isinstance(said, Ready):
                    self._ready.set_result(None)
                else:
                    self._ready.set_exception(KnowledgeError(said.sentence))
        elif isinstance(said, Embed | Trouble):
            if said.collection not in self._names:
                raise FrameError("it names an unknown collection")
            self._handle_request(said)
        else:
            expected, future = self._pending.get(said.number, (None, None))
            if expected is None or future is None or future.done():
                return
            if isinstance(said, Failed):
                future.set_exception(KnowledgeError(said.sentence))
            elif isinstance(said, expected):
                future.set_result(said)
            else:
                raise FrameError("its answer is of the wrong kind")

    def _handle_request(self, said: Embed | Trouble) -> None:
        if isinstance(said, Trouble):
            self._note(said.collection, said.sentence)
        else:
            if self._embeds_for == self._child.starts:
                raise FrameError("it asks for vectors before its last request is answered")
            self._embeds_for = self._child.starts
            self._begin(self._give_vectors(said))

    def _note(self, name: str, why: str | None) -> None:
        self._troubles.pop(name, None)
        if why is not None:
            self._troubles[name] = why = why.rstrip(".")
            log.warning("the collection %s: %s", name, why)

    async def _give_vectors(self, asked: Embed) -> None:
        vectors, asked_by = None, self._child.starts
        try:
            vectors = tuple(await self._embed(asked.collection, asked.texts))
        except Exception as error:  # whatever it is, word search finds the passages meanwhile
            log.warning("passages of %s can't be embedded now: %s", asked.collection, type(error).__name__)
        if self._child.starts == asked_by:  # a restarted process did not ask for these
            self._embeds_for = 0
            self._child.send(Vectors(asked.number, vectors))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _lost(self, status: str) -> None:
        log.error("the process of the collections ended unexpectedly (%s)", status)
        self._fail(_EndedError(f"the process of the collections ended unexpectedly ({status})"))
        lived_s = 0.0 if self._ready_at is None else asyncio.get_running_loop().time() - self._ready_at
        self._ready_at = None
        is_kept = any(spec.is_kept for spec in self._specs)
        if is_kept and not self._stopped and (self._again is None or self._again.done()):
            self._again = self._begin(self._start_again(self._backoff.next_s(lived_s)))

    async def _start_again(self, pause_s: float) -> None:
        """Starts the process after ``pause_s``; retries until the process runs."""
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.start()
                return
            except KnowledgeError as error:  # the next search reports it too
                log.error("the collections can't be opened again: %s", error)
                pause_s = self._backoff.next_s()

    def _fail(self, error: Exception) -> None:
        """Raises ``error`` in every call that waits for the process."""
        waiting: list[asyncio.Future[Any]] = [future for _, future in self._pending.values()]
        if self._ready is not None:
            waiting.append(self._ready)
        for future in waiting:
            if not future.done():
                future.set_exception(error)
