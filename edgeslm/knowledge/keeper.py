"""What a node itself writes into its collections: watched folders, remembered messages, missing vectors.

One thread. Messages go before anything else, also between two files or two batches of passages, and are on
the disk before they are acknowledged. Knows no pipe and no engine: both are handed in as one function.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.collection import Collection
from edgeslm.knowledge.intake import add_files
from edgeslm.knowledge.memory import remember
from edgeslm.knowledge.opened import OpenCollections
from edgeslm.knowledge.queries import Memory, Shelf
from edgeslm.knowledge.sources import find_files

log = logging.getLogger("edgeslm.knowledge")

SWEEP_EVERY_S = 10.0
"""Between two looks at what is watched and what has expired; more where a look takes long (``SHARE``)."""
SHARE = 20
"""Looking takes at most one of so many seconds."""
SETTLED_S = 2.0
"""A file that changed less than so many seconds ago may still be on its way."""
TOGETHER = 256
"""Most messages that one transaction remembers or removes."""

Send = Callable[..., None]
_Wanted = tuple[int, str, Memory]
_State = tuple[int, int, int]
"""Of a file: its size, when its content changed, and when it was moved here or may be read by others."""
_NONE_YET = object()


class Keeper:
    """Keeps ``shelves``; ``send`` takes the messages of ``edgeslm.knowledge.worker``."""

    def __init__(self, shelves: Sequence[Shelf], send: Send, *, sweep_every_s: float = SWEEP_EVERY_S) -> None:
        self._shelves = shelves
        self._send = send
        self._sweep_every_s = sweep_every_s
        self._waiting: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        """None says that there are vectors: the thread waits in one place for both."""
        self._vectors: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._asked = 0
        self._seen: dict[str, dict[Path, _State]] = {}
        self._broken: dict[str, dict[Path, str]] = {}
        self._opened = OpenCollections(
            {shelf.name: shelf.path for shelf in shelves}, writes=True, on_new=self._forget
        )
        self._troubles: dict[str, str] = {}

    def make(self) -> None:
        """Makes the collections that aren't there, so that they can be searched.

        :raises KnowledgeError: one can't be made or written to.
        """
        for shelf in self._shelves:
            with Collection(shelf.path, writes=True) as collection:
                if shelf.encoder is not None and collection.encoder is None:
                    collection.use_encoder(shelf.encoder)

    def start(self) -> None:
        if self._shelves:
            threading.Thread(target=self._run, name="keeper", daemon=True).start()

    def remember(self, number: int, collection: str, memory: Memory) -> None:
        """From any thread; ``done`` or ``failed`` follows."""
        self._waiting.put((number, collection, memory))

    def take_vectors(self, number: int, vectors: Sequence[Sequence[float]] | None) -> None:
        """From any thread: the answer to ``embed``; None where it can't be had now."""
        self._vectors.put((number, vectors))
        self._waiting.put(None)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            self._remember_waiting(max(0.0, due - time.monotonic()))
            if (started := time.monotonic()) >= due:
                for shelf in self._shelves:
                    self._sweep(shelf)
                took = time.monotonic() - started
                due = time.monotonic() + max(self._sweep_every_s, SHARE * took)

    # --- messages -----------------------------------------------------------------------------------

    def _remember_waiting(self, wait_s: float | None = 0.0) -> None:
        """All messages that wait, in as few transactions as there are collections.

        :param wait_s: for the first, or for vectors; None: for as long as it takes.
        """
        arrived: list[_Wanted | None] = []
        try:
            arrived.append(self._waiting.get_nowait() if wait_s == 0 else self._waiting.get(timeout=wait_s))
            while len(arrived) < TOGETHER:
                arrived.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        wanted = [one for one in arrived if one is not None]
        for name in {name for _, name, _ in wanted}:
            self._remember(name, [(number, memory) for number, of, memory in wanted if of == name])

    def _remember(self, name: str, wanted: Sequence[tuple[int, Memory]]) -> None:
        try:
            remember(
                self._opened.get(name),
                [memory for _, memory in wanted],
                lambda why: log.warning("a message can't be remembered: %s", why),
            )
        except Exception as error:
            why = str(error) if isinstance(error, KnowledgeError) else type(error).__name__
            log.debug("remembering", exc_info=True)
            self._opened.close(name)
            if len(wanted) > 1 and not isinstance(error, KnowledgeError):
                for one in wanted:  # one of them is the cause: the others are kept
                    self._remember(name, [one])
                return
            for number, _ in wanted:
                self._send("failed", number, why)
            return
        for number, _ in wanted:
            self._send("done", number, None)

    # --- folders ------------------------------------------------------------------------------------

    def _sweep(self, shelf: Shelf) -> None:
        trouble: list[str] = []
        try:
            collection = self._opened.get(shelf.name)
            while collection.remove_expired(most=TOGETHER) == TOGETHER:
                self._remember_waiting()
            if shelf.watch:
                self._look(shelf, collection, trouble.append)
            if shelf.encoder is not None:
                if collection.encoder is None:
                    collection.use_encoder(shelf.encoder)
                collection.embed_missing(lambda texts: self._embed(shelf.name, texts))
        except _NotNowError:
            pass  # words find them meanwhile; the next sweep asks again
        except KnowledgeError as error:
            trouble.append(str(error))
            self._opened.close(shelf.name)
        except Exception as error:  # a mistake of ours must not end the thread
            log.error("keeping %s failed: %s", shelf.name, type(error).__name__)
            log.debug("keeping %s", shelf.name, exc_info=True)
            trouble.append(f"keeping it up to date failed ({type(error).__name__})")
            self._opened.close(shelf.name)
        self._tell(shelf.name, trouble)

    def _look(self, shelf: Shelf, collection: Collection, on_broken: Callable[[str], None]) -> None:
        """Files whose size or time isn't what it was, and those that are gone."""
        there = [path for path in shelf.watch if os.access(path, os.F_OK)]  # raises nothing
        for path in shelf.watch:
            if path not in there:  # an unplugged disk is no reason to forget what was on it
                on_broken(f"{path}, which is watched, is not there")
        files = [path for path, _ in find_files(there)]
        for path in list(there):  # nor is the empty folder that it leaves
            if path.is_dir() and not any(file.is_relative_to(path) for file in files):
                there.remove(path)
                if any(file.is_relative_to(path.absolute()) for _, file in collection.files()):
                    on_broken(f"{path}, which is watched, is empty; what was in it is still found")
        before, now = self._seen[shelf.name], dict[Path, _State]()
        for path in files:
            try:
                status = path.stat()
            except OSError:
                continue
            # A time to come is that of a clock that is wrong, here or where the file comes from.
            if abs(time.time() - status.st_mtime) >= SETTLED_S:
                now[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            elif path in before:
                now[path] = before[path]
        if now != before:
            self._take_over(shelf.name, collection, there, now)
        for sentence in self._broken[shelf.name].values():
            on_broken(sentence)

    def _take_over(
        self, name: str, collection: Collection, paths: Sequence[Path], now: dict[Path, _State]
    ) -> None:
        before, current = self._seen[name], Path()
        changed = {path for path in now if before.get(path) != now[path]}
        broken = {path: why for path, why in self._broken[name].items() if path in now.keys() - changed}

        def wants(path: Path) -> bool:
            nonlocal current
            current = path
            return path in changed

        def note(sentence: str) -> None:
            broken[current] = sentence

        totals = add_files(
            *(collection, paths),
            sync=True,
            wants=wants,
            on_file=lambda _: self._remember_waiting(),
            on_broken=note,
        )
        self._seen[name], self._broken[name] = now, broken
        log.info("%s: %d added, %d changed, %d removed", name, totals.added, totals.changed, totals.removed)

    def _embed(self, name: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self._remember_waiting()
        self._asked += 1
        self._send("embed", self._asked, name, tuple(texts))
        # The encoder may be busy for long, with what is more urgent than this: messages don't wait for it.
        while (vectors := self._arrived()) is _NONE_YET:
            self._remember_waiting(None)
        if vectors is None:
            raise _NotNowError
        found: Sequence[Sequence[float]] = vectors
        return found

    def _arrived(self) -> Any:
        """The answer to what was asked last."""
        with suppress(queue.Empty):
            while True:
                number, vectors = self._vectors.get_nowait()
                if number == self._asked:
                    return vectors
        return _NONE_YET

    # --- inside -------------------------------------------------------------------------------------

    def _forget(self, name: str) -> None:
        """Of a collection that is opened anew nothing is known: its file may be another one."""
        self._seen[name] = {}
        self._broken[name] = {}

    def _tell(self, name: str, trouble: Sequence[str]) -> None:
        more = f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""
        sentence = f"{trouble[0]}{more}" if trouble else ""
        if sentence != self._troubles.get(name, ""):
            self._troubles[name] = sentence
            self._send("trouble", name, sentence or None)


class _NotNowError(Exception):
    """The engine that embeds is not there at the moment."""
