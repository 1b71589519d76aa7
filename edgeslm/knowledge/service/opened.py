"""Open collections: reopens a collection whose file was replaced."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.fair_lock import FairLock


class OpenCollections:
    """Opens and caches collections by name, for use by one thread.

    :param paths: name -> file.
    :param locks: name -> lock, see :class:`Collection`; None opens collections read-only.
    :param languages: name -> language of the documents that are added, if it is configured.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        locks: Mapping[str, FairLock] | None = None,
        languages: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        self._paths = paths
        self._locks = locks
        self._languages = languages
        self._open: dict[str, tuple[Collection, tuple[int, int]]] = {}

    def get(self, name: str) -> Collection:
        """:raises KnowledgeError: the collection is missing or unusable."""
        opened = self._open.get(name)
        if opened is not None:
            if _identity(opened[0].file) == opened[1]:
                return opened[0]
            self.close(name)
        lock = None if self._locks is None else self._locks[name]
        collection = Collection(
            self._paths[name], writes=lock is not None, lock=lock, language=self._languages.get(name)
        )
        collection.open()
        self._open[name] = (collection, _identity(collection.file))
        return collection

    def close(self, name: str) -> None:
        """Closes a collection until its next use."""
        if (opened := self._open.pop(name, None)) is not None:
            opened[0].close()


def _identity(file: Path) -> tuple[int, int]:
    """Device and inode of a file; zeros if the file is missing."""
    with suppress(OSError):
        status = file.stat()
        return (status.st_dev, status.st_ino)
    return (0, 0)
