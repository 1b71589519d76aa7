"""Indexer: what a node writes into its collections from watched folders, messages and missing vectors.

A thread each, and one for the messages of each collection, since none may wait for another: a message is
acknowledged when it is on the disk, a manual of a thousand pages takes minutes to read, and an encoder has
time when nobody asks it. They write by turns, a document or a batch at a time. Knows no pipe and no engine:
both are handed in as one function.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import find_collection
from edgeslm.knowledge.index.fair_lock import FairLock
from edgeslm.knowledge.index.queries import CollectionSpec, Memory
from edgeslm.knowledge.readers.sources import find_files
from edgeslm.knowledge.service.frames import Embed, Failed, Remembered, Said, Trouble, Vectors
from edgeslm.knowledge.service.intake import add_files
from edgeslm.knowledge.service.memory import remember
from edgeslm.knowledge.service.opened import OpenCollections
from edgeslm.knowledge.service.quarantine import Key, Quarantine

log = logging.getLogger("edgeslm.knowledge")

SWEEP_EVERY_S = 10.0
"""Between two looks at what is watched and what has expired; more where a look takes long (``SHARE``)."""
SHARE = 20
"""Looking takes at most one of so many seconds, ..."""
LONGEST_PAUSE_S = 300.0
"""... unless the next look would be later than this: the first one of a folder may read for hours."""
SETTLED_S = 2.0
"""A file that changed less than so many seconds ago may still be on its way."""
TOGETHER = 256
"""Most messages that one transaction remembers or removes."""

Send = Callable[[Said], None]
_FileState = tuple[int, int, int]
"""Of a file: its size, when its content changed, and when it was moved here or may be read by others."""
_Wanted = tuple[int, Memory]
_Work = Callable[[CollectionSpec, Collection, Callable[[str], None]], None]
"""Told of what is wrong, in sentences."""


class Indexer:
    """Keeps ``specs``; ``send`` takes what the process says."""

    def __init__(
        self, specs: Sequence[CollectionSpec], send: Send, *, sweep_every_s: float = SWEEP_EVERY_S
    ) -> None:
        self._specs = specs
        self._send = send
        self._sweep_every_s = sweep_every_s
        locks = defaultdict[Path, FairLock](FairLock)
        self._locks = {spec.name: locks[find_collection(spec.path).absolute()] for spec in specs}
        self._waiting = {spec.name: queue.SimpleQueue[_Wanted]() for spec in specs if spec.writes}
        self._vectors: queue.SimpleQueue[Vectors] = queue.SimpleQueue()
        self._asked = 0
        self._seen: dict[str, dict[Path, _FileState]] = {}
        self._broken: dict[str, dict[Path, str]] = {}
        self._left_out: dict[str, set[Key]] = {}
        self._skipped: dict[str, set[str]] = {}
        self._troubles: dict[str, dict[str, Sequence[str]]] = defaultdict(dict)
        """Of each collection, by what is done to it."""
        self._told: dict[str, str] = {}
        self._telling = threading.Lock()

    def make(self) -> None:
        """Makes the collections that aren't there, so that they can be searched.

        :raises KnowledgeError: one can't be made or written to.
        """
        for spec in self._specs:
            with Collection(spec.path, writes=True) as collection:
                if spec.encoder is not None and collection.encoder is None:
                    collection.use_encoder(spec.encoder)

    def start(self) -> None:
        for work in (self._sweep_all, self._embed_all) if self._specs else ():
            threading.Thread(target=work, name=work.__name__.strip("_"), daemon=True).start()
        for name in self._waiting:
            threading.Thread(
                target=self._remember_all, args=(name,), name="remember_all", daemon=True
            ).start()

    def remember(self, number: int, collection: str, memory: Memory) -> None:
        """From any thread; ``Remembered`` or ``Failed`` follows."""
        if (waiting := self._waiting.get(collection)) is not None:
            waiting.put((number, memory))
        else:
            self._send(Failed(number, f"messages are not remembered in {collection}"))

    def take_vectors(self, vectors: Vectors) -> None:
        """From any thread: the answer to ``Embed``."""
        self._vectors.put(vectors)

    def _open(self, on_new: Callable[[str], None] = lambda name: None) -> OpenCollections:
        """Those of one thread."""
        paths = {spec.name: spec.path for spec in self._specs}
        return OpenCollections(paths, writes=True, locks=self._locks, on_new=on_new)

    # --- messages -----------------------------------------------------------------------------------

    def _remember_all(self, name: str) -> None:
        """All messages of a collection that wait, in one transaction."""
        opened, waiting = self._open(), self._waiting[name]
        while True:
            wanted = [waiting.get()]
            with suppress(queue.Empty):
                while len(wanted) < TOGETHER:
                    wanted.append(waiting.get_nowait())
            self._remember(opened, name, wanted)

    def _remember(self, opened: OpenCollections, name: str, wanted: Sequence[_Wanted]) -> None:
        try:
            remember(
                opened.get(name),
                [memory for _, memory in wanted],
                lambda why: log.warning("a message can't be remembered: %s", why),
            )
        except Exception as error:
            why = str(error) if isinstance(error, KnowledgeError) else type(error).__name__
            log.debug("remembering", exc_info=True)
            opened.close(name)
            if len(wanted) > 1 and not isinstance(error, KnowledgeError):
                for one in wanted:  # one of them is the cause: the others are kept
                    self._remember(opened, name, [one])
                return
            for number, _ in wanted:
                self._send(Failed(number, why))
            return
        for number, _ in wanted:
            self._send(Remembered(number))

    # --- folders ------------------------------------------------------------------------------------

    def _sweep_all(self) -> None:
        opened = self._open(on_new=self._forget)
        while True:
            started = time.monotonic()
            for spec in self._specs:
                self._work("sweep", self._sweep, spec, opened)
            took = time.monotonic() - started
            time.sleep(max(self._sweep_every_s, min(LONGEST_PAUSE_S, SHARE * took)))

    def _sweep(self, spec: CollectionSpec, collection: Collection, on_trouble: Callable[[str], None]) -> None:
        while collection.remove_expired(most=TOGETHER) == TOGETHER:
            pass
        if spec.watch:
            self._look(spec, collection, on_trouble)

    def _look(self, spec: CollectionSpec, collection: Collection, on_broken: Callable[[str], None]) -> None:
        """Files whose size or time isn't what it was, and those that are gone."""
        there = [path for path in spec.watch if os.access(path, os.F_OK)]  # raises nothing
        for path in spec.watch:
            if path not in there:  # an unplugged disk is no reason to forget what was on it
                on_broken(f"{path}, which is watched, is not there")
        skipped = Counter[str]()
        files = [path for path, _ in find_files(there, skipped)]
        self._tell_skipped(spec.name, skipped)
        for path in there:  # nor is the empty folder that it leaves (``spares_empty``)
            is_empty = path.is_dir() and not any(file.is_relative_to(path) for file in files)
            if is_empty and any(file.is_relative_to(path.absolute()) for _, file in collection.files()):
                on_broken(f"{path}, which is watched, is empty; what was in it is still found")
        before, now = self._seen[spec.name], dict[Path, _FileState]()
        if self._left_out[spec.name] - Quarantine(collection).left_out():  # one was read with --again
            for path in self._broken[spec.name]:
                before.pop(path, None)
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
            self._take_over(spec, collection, there, now)
        for sentence in self._broken[spec.name].values():
            on_broken(sentence)

    def _tell_skipped(self, name: str, skipped: Counter[str]) -> None:
        """Each kind once."""
        if new := sorted(skipped.keys() - self._skipped[name]):
            self._skipped[name].update(new)
            kinds = ", ".join(f"{skipped[kind]:,} {kind}" for kind in new)
            log.info("%s: files of kinds that are not read: %s", name, kinds)

    def _take_over(
        self, spec: CollectionSpec, collection: Collection, paths: Sequence[Path], now: dict[Path, _FileState]
    ) -> None:
        name = spec.name
        before = self._seen[name]
        changed = {path for path in now if before.get(path) != now[path]}
        broken = {path: why for path, why in self._broken[name].items() if path in now.keys() - changed}
        totals = add_files(
            *(collection, paths),
            sync=True,
            spares_empty=True,
            wants=changed.__contains__,
            on_broken=broken.__setitem__,
        )
        self._seen[name], self._broken[name] = now, broken
        self._left_out[name] = Quarantine(collection).left_out()
        log.info("%s: %d added, %d changed, %d removed", name, totals.added, totals.changed, totals.removed)

    def _forget(self, name: str) -> None:
        """Of a collection that is opened anew nothing is known: its file may be another one."""
        self._seen[name] = {}
        self._broken[name] = {}
        self._left_out[name] = set()
        self._skipped[name] = set()

    # --- vectors ------------------------------------------------------------------------------------

    def _embed_all(self) -> None:
        opened = self._open()
        specs = [spec for spec in self._specs if spec.encoder is not None]
        while specs:
            for spec in specs:
                self._work("embed", self._embed_missing, spec, opened)
            time.sleep(self._sweep_every_s)

    def _embed_missing(
        self, spec: CollectionSpec, collection: Collection, on_trouble: Callable[[str], None]
    ) -> None:
        if collection.encoder is None and spec.encoder is not None:
            collection.use_encoder(spec.encoder)
        with suppress(_NotNowError):  # words find them meanwhile; the next round asks again
            collection.embed_missing(lambda texts: self._embed(spec.name, texts))

    def _embed(self, name: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self._asked += 1
        self._send(Embed(self._asked, name, tuple(texts)))
        while (answer := self._vectors.get()).number != self._asked:
            pass
        if answer.vectors is None:
            raise _NotNowError
        return answer.vectors

    # --- inside -------------------------------------------------------------------------------------

    def _work(self, name: str, work: _Work, spec: CollectionSpec, opened: OpenCollections) -> None:
        """Does what keeps a collection up to date; what goes wrong is told and ends no thread."""
        trouble: list[str] = []
        try:
            work(spec, opened.get(spec.name), trouble.append)
        except KnowledgeError as error:
            trouble.append(str(error))
            opened.close(spec.name)
        except Exception as error:  # a mistake of ours
            log.error("keeping %s failed: %s", spec.name, type(error).__name__)
            log.debug("keeping %s", spec.name, exc_info=True)
            trouble.append(f"keeping it up to date failed ({type(error).__name__})")
            opened.close(spec.name)
        self._tell(spec.name, name, trouble)

    def _tell(self, name: str, work: str, trouble: Sequence[str]) -> None:
        with self._telling:
            self._troubles[name][work] = trouble
            first, *others = dict.fromkeys(one for of in self._troubles[name].values() for one in of) or [""]
            sentence = f"{first} (and {len(others)} more)" if others else first
            if sentence != self._told.get(name, ""):
                self._told[name] = sentence
                self._send(Trouble(name, sentence or None))


class _NotNowError(Exception):
    """The engine that embeds is not there at the moment."""
