"""Prefix cache: keys and values of tasks' prompt prefixes, on disk for the next start.

Each file holds a SHA-256 digest, then the keys and values of all layers for the tokens of one prefix. The
files lie in the folder of the prepacked bundle (``prepared``), so they are valid for one bundle, CPU and
library version.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeslm.storage.file_ownership import is_ours

log = logging.getLogger("edgeslm.engine")

FOLDER: Final = "beginnings"
"""Name of the folder of the cache, next to the prepacked graphs."""
KEPT_BYTES: Final = 64_000_000
"""Largest total size of all files, in bytes. To make room, the worker removes the oldest files, except the
files that it has read or written since its start. Without this exception, tasks would evict one another's
prefixes at each start if the cache is too small for all prefixes."""
_DIGEST_BYTES: Final = 32

Values = npt.NDArray[np.float32] | npt.NDArray[np.int8]


class PrefixCache:
    """Stored prefixes of one graph.

    :param folder: folder of the files; it is created on the first write.
    :param caches: number of arrays [heads, tokens, size] in a prefix.
    :param kind: type of the numbers: float32, or int8 for codes.
    """

    def __init__(
        self,
        folder: Path,
        caches: int,
        heads: int,
        size: int,
        kind: npt.DTypeLike = np.float32,
        *,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._folder = folder
        self._caches, self._heads, self._size, self._kind = caches, heads, size, np.dtype(kind)
        self._kept_bytes = kept_bytes
        self._used: set[Path] = set()

    def find(self, tokens: Sequence[int]) -> Values | None:
        """The keys and values of a prefix as a memory-mapped array [caches, 1, heads, tokens, size]; None if
        the file is missing, damaged or not owned by the node's user."""
        file = self._file_of(tokens)
        shape = (self._caches, 1, self._heads, len(tokens), self._size)
        try:
            status = file.lstat()
            if not stat.S_ISREG(status.st_mode) or not is_ours(status):
                return None
            if status.st_size != _DIGEST_BYTES + self._kind.itemsize * int(np.prod(shape)):
                return None
            content = np.memmap(file, np.uint8, "r")
        except (OSError, ValueError):
            return None
        digest = hashlib.sha256(content.data[_DIGEST_BYTES:]).digest()
        if digest != content[:_DIGEST_BYTES].tobytes():
            log.warning("%s is damaged; it is computed again", file)
            return None
        self._used.add(file)
        with contextlib.suppress(OSError):
            os.utime(file)
        return content[_DIGEST_BYTES:].view(self._kind).reshape(shape)

    def keep(self, tokens: Sequence[int], values: Sequence[Values]) -> None:
        """Writes a prefix, if it is new and there is room. A write error is not fatal, since the prefix is
        then computed again at the next start."""
        file = self._file_of(tokens)
        if file in self._used:
            return
        content = np.ascontiguousarray(np.stack(values), self._kind).tobytes()
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if self._make_room(len(content)):
                fresh.write_bytes(hashlib.sha256(content).digest() + content)
                fresh.replace(file)
                self._used.add(file)
        except OSError as error:
            log.info("%s can't be kept: %s", file, error.strerror)
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> bool:
        """Evicts old files; returns whether ``needed`` bytes fit. Two workers may evict files at the same
        time."""
        found = {}
        for file in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = file.lstat()
                found[file] = status.st_mtime, status.st_size
        room = self._kept_bytes - sum(size for _, size in found.values())
        old = sorted(found.keys() - self._used, key=lambda one: found[one][0])
        if room + sum(found[file][1] for file in old) < needed:
            return False
        for file in old:
            if room >= needed:
                break
            file.unlink(missing_ok=True)
            room += found[file][1]
        return True

    def _file_of(self, tokens: Sequence[int]) -> Path:
        name = hashlib.sha256(np.asarray(tokens, np.int64).tobytes()).hexdigest()[:32]
        return self._folder / name
