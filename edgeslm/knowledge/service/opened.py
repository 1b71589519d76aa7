"""Open collections, each until its file is another one: removed by hand, or put in its place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.fair_lock import FairLock


class OpenCollections:
    """By name; of one thread.

    :param paths: name -> the collection's file.
    :param locks: see :class:`Collection`, by name; None: they are only read.
    """

    def __init__(self, paths: Mapping[str, Path], locks: Mapping[str, FairLock] | None = None) -> None:
        self._paths = paths
        self._locks = locks
        self._open: dict[str, tuple[Collection, tuple[int, int]]] = {}

    def get(self, name: str) -> Collection:
        """:raises KnowledgeError: it isn't there, or can't be used."""
        opened = self._open.get(name)
        if opened is not None:
            if _identity(opened[0].file) == opened[1]:
                return opened[0]
            self.close(name)
        lock = None if self._locks is None else self._locks[name]
        collection = Collection(self._paths[name], writes=lock is not None, lock=lock)
        collection.open()
        self._open[name] = (collection, _identity(collection.file))
        return collection

    def close(self, name: str) -> None:
        """It is opened anew when it is next wanted; nothing if it isn't open."""
        if (opened := self._open.pop(name, None)) is not None:
            opened[0].close()


def _identity(file: Path) -> tuple[int, int]:
    """Which file it is; a missing one is none."""
    with suppress(OSError):
        status = file.stat()
        return (status.st_dev, status.st_ino)
    return (0, 0)
