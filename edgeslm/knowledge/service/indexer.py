"""Indexer: updates collections from watched folders and messages, and embeds passages without a vector.

Separate threads scan folders, embed passages, and store the messages of each collection, so that no task
waits for another task. A message is acknowledged once it is on disk, so it must not wait for a manual of a
thousand pages, which takes minutes to read. Embedding waits while the encoder serves requests. The threads
alternate in writing, one document or batch at a time.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import find_collection
from edgeslm.knowledge.index.fair_lock import FairLock
from edgeslm.knowledge.index.queries import CollectionSpec, Memory
from edgeslm.knowledge.readers.sources import find_files
from edgeslm.knowledge.service.frames import Embed, Failed, Parent, Remembered, Trouble, Vectors
from edgeslm.knowledge.service.intake import IntakeListener, add_files
from edgeslm.knowledge.service.memory import remember
from edgeslm.knowledge.service.opened import OpenCollections
from edgeslm.knowledge.service.quarantine import Key, Quarantine

log = logging.getLogger("edgeslm.knowledge")

SWEEP_EVERY_S = 10.0
"""Seconds between two scans for changed and expired documents; more if a scan takes long (``SHARE``)."""
SHARE = 20
"""Ratio of the pause after a scan to the duration of that scan. The pause is also limited: at least
``SWEEP_EVERY_S`` and at most ``LONGEST_PAUSE_S``."""
LONGEST_PAUSE_S = 300.0
"""Maximum pause between scans in seconds, even if a scan took hours, as the first scan of a folder may."""
SETTLED_S = 2.0
"""Seconds to wait after a file's last change, since the file may be incomplete."""
TOGETHER = 256
"""Maximum number of messages stored or removed in one transaction."""

_FileState = tuple[int, int, int]
"""A file's size, modification time and inode change time."""
_Wanted = tuple[int, Memory]


def pause_s(took_s: float, least_s: float) -> float:
    """Seconds to wait after a scan that took ``took_s`` seconds."""
    return max(least_s, min(LONGEST_PAUSE_S, SHARE * took_s))


class Indexer:
    """Keeps the collections in ``specs`` up to date."""

    def __init__(
        self,
        specs: Sequence[CollectionSpec],
        parent: Parent,
        *,
        sweep_every_s: float = SWEEP_EVERY_S,
        settled_s: float = SETTLED_S,
    ) -> None:
        self._specs = specs
        self._parent = parent
        self._sweep_every_s = sweep_every_s
        self._settled_s = settled_s
        locks = defaultdict[Path, FairLock](FairLock)
        self._locks = {spec.name: locks[find_collection(spec.path).absolute()] for spec in specs}
        self._waiting = {spec.name: queue.SimpleQueue[_Wanted]() for spec in specs if spec.writes}
        self._vectors: queue.SimpleQueue[Vectors] = queue.SimpleQueue()
        self._asked = 0
        self._watched: dict[str, _Watched] = {}
        self._troubles: dict[str, dict[str, Sequence[str]]] = defaultdict(dict)
        """Problems as sentences, by collection and maintenance task."""
        self._reported: dict[str, str] = {}
        self._report_lock = threading.Lock()

    def make(self) -> None:
        """Creates missing collections, so that they can be searched.

        :raises KnowledgeError: a collection can't be created or written.
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
        """Queues a message; the node gets ``Remembered`` or ``Failed``. Thread-safe."""
        if (waiting := self._waiting.get(collection)) is not None:
            waiting.put((number, memory))
        else:
            self._parent.send(Failed(number, f"messages are not remembered in {collection}"))

    def take_vectors(self, vectors: Vectors) -> None:
        """Receives the answer to ``Embed``. Thread-safe."""
        self._vectors.put(vectors)

    def _open(self) -> OpenCollections:
        """Opens the collections for one thread."""
        return OpenCollections(
            {spec.name: spec.path for spec in self._specs},
            self._locks,
            {spec.name: spec.language for spec in self._specs},
        )

    # --- messages -----------------------------------------------------------------------------------

    def _remember_all(self, name: str) -> None:
        """Thread that stores the messages of a collection, up to :data:`TOGETHER` waiting messages in one
        transaction."""
        opened, waiting = self._open(), self._waiting[name]
        while True:
            wanted = [waiting.get()]
            with suppress(queue.Empty):
                while len(wanted) < TOGETHER:
                    wanted.append(waiting.get_nowait())
            self._remember(opened, name, wanted)

    def _remember(self, opened: OpenCollections, name: str, wanted: Sequence[_Wanted]) -> None:
        try:
            remember(opened.get(name), [memory for _, memory in wanted])
        except Exception as error:
            why = str(error) if isinstance(error, KnowledgeError) else type(error).__name__
            log.debug("remembering", exc_info=True)
            opened.close(name)
            if len(wanted) > 1 and not isinstance(error, KnowledgeError):
                for one in wanted:  # one of them is the cause; store the others
                    self._remember(opened, name, [one])
                return
            for number, _ in wanted:
                self._parent.send(Failed(number, why))
            return
        for number, _ in wanted:
            self._parent.send(Remembered(number))

    # --- folders ------------------------------------------------------------------------------------

    def _sweep_all(self) -> None:
        opened = self._open()
        while True:
            started = time.monotonic()
            for spec in self._specs:
                self._work("sweep", self._sweep, spec, opened)
            took = time.monotonic() - started
            time.sleep(pause_s(took, self._sweep_every_s))

    def _sweep(self, spec: CollectionSpec, collection: Collection, trouble: list[str]) -> None:
        while collection.remove_expired(most=TOGETHER) == TOGETHER:
            pass
        collection.index_languages()
        if spec.watch:
            watched = self._watched.get(spec.name)
            if watched is None or watched.collection is not collection:  # the file may have been replaced
                watched = self._watched[spec.name] = _Watched(spec, collection, self._settled_s)
            watched.scan(trouble)

    # --- vectors ------------------------------------------------------------------------------------

    def _embed_all(self) -> None:
        opened = self._open()
        specs = [spec for spec in self._specs if spec.encoder is not None]
        while specs:
            for spec in specs:
                self._work("embed", self._embed_missing, spec, opened)
            time.sleep(self._sweep_every_s)

    def _embed_missing(self, spec: CollectionSpec, collection: Collection, trouble: list[str]) -> None:
        if collection.encoder is None and spec.encoder is not None:
            collection.use_encoder(spec.encoder)
        with suppress(_EncoderUnavailableError):  # searched by words until the next round
            collection.embed_missing(lambda texts: self._embed(spec.name, texts))

    def _embed(self, name: str, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self._asked += 1
        self._parent.send(Embed(self._asked, name, tuple(texts)))
        while (answer := self._vectors.get()).number != self._asked:
            pass
        if answer.vectors is None:
            raise _EncoderUnavailableError
        return answer.vectors

    # --- inside -------------------------------------------------------------------------------------

    def _work(self, name: str, work: _Upkeep, spec: CollectionSpec, opened: OpenCollections) -> None:
        """Runs a maintenance task; reports any error without ending the thread."""
        trouble: list[str] = []
        try:
            work(spec, opened.get(spec.name), trouble)
        except KnowledgeError as error:
            trouble.append(str(error))
            opened.close(spec.name)
        except Exception as error:  # a bug
            log.error("updating %s failed: %s", spec.name, type(error).__name__)
            log.debug("updating %s", spec.name, exc_info=True)
            trouble.append(f"updating it failed ({type(error).__name__})")
            opened.close(spec.name)
        self._report(spec.name, name, trouble)

    def _report(self, name: str, work: str, trouble: Sequence[str]) -> None:
        with self._report_lock:
            self._troubles[name][work] = trouble
            first, *others = dict.fromkeys(one for of in self._troubles[name].values() for one in of) or [""]
            sentence = f"{first} (and {len(others)} more)" if others else first
            if sentence != self._reported.get(name, ""):
                self._reported[name] = sentence
                self._parent.send(Trouble(name, sentence or None))


class _Watched(IntakeListener):
    """Tracks the last known state of a collection's watched files."""

    def __init__(self, spec: CollectionSpec, collection: Collection, settled_s: float) -> None:
        self.collection = collection
        self._settled_s = settled_s
        self._name = spec.name
        self._watch = spec.watch
        self._seen: dict[Path, _FileState] = {}
        self._changed: set[Path] = set()
        self._broken: dict[Path, str] = {}
        self._left_out: set[Key] = set()
        self._skipped: set[str] = set()

    def wants(self, path: Path) -> bool:
        return path in self._changed

    def on_broken(self, path: Path, sentence: str) -> None:
        self._broken[path] = sentence

    def scan(self, trouble: list[str]) -> None:
        """Finds changed and removed files and updates the collection."""
        there = [path for path in self._watch if os.access(path, os.F_OK)]  # never raises
        for path in self._watch:
            if path not in there:  # an unplugged disk must not remove its documents
                trouble.append(f"the watched path {path} is missing")
        skipped = Counter[str]()
        files = [path for path, _ in find_files(there, skipped)]
        self._log_skipped(skipped)
        for path in there:  # an empty mount point must not either (``spares_empty``)
            is_empty = path.is_dir() and not any(file.is_relative_to(path) for file in files)
            if is_empty and any(file.is_relative_to(path.absolute()) for _, file in self.collection.files()):
                trouble.append(f"the watched folder {path} is empty; its documents are kept")
        if self._left_out - Quarantine(self.collection).left_out():  # a file was read with --again
            for path in self._broken:
                self._seen.pop(path, None)
        now: dict[Path, _FileState] = {}
        for path in files:
            try:
                status = path.stat()
            except OSError:
                continue
            # A time in the future comes from a wrong clock, here or at the file's origin.
            if abs(time.time() - status.st_mtime) >= self._settled_s:
                now[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            elif path in self._seen:
                now[path] = self._seen[path]
        if now != self._seen:
            self._index_changes(there, now)
        trouble += self._broken.values()

    def _log_skipped(self, skipped: Counter[str]) -> None:
        """Logs the number of skipped files of each kind, once per kind."""
        if new := sorted(skipped.keys() - self._skipped):
            self._skipped.update(new)
            kinds = ", ".join(f"{skipped[kind]:,} {kind}" for kind in new)
            log.info("%s: skipped files of unsupported types: %s", self._name, kinds)

    def _index_changes(self, paths: Sequence[Path], now: dict[Path, _FileState]) -> None:
        self._changed = {path for path in now if self._seen.get(path) != now[path]}
        same = now.keys() - self._changed
        self._broken = {path: why for path, why in self._broken.items() if path in same}
        totals = add_files(self.collection, paths, sync=True, spares_empty=True, listener=self)
        self._seen = now
        self._left_out = Quarantine(self.collection).left_out()
        log.info(
            *("%s: %d added, %d changed, %d removed", self._name),
            *(totals.added, totals.changed, totals.removed),
        )


class _Upkeep(Protocol):
    """A maintenance task, which adds problems to ``trouble`` as sentences."""

    def __call__(self, spec: CollectionSpec, collection: Collection, trouble: list[str], /) -> None: ...


class _EncoderUnavailableError(Exception):
    """The embedding engine is not available now."""
