"""Running marks: what is being computed now, in shared memory, where the end of the process can't take it.

One write to memory a request in place of one to the disk. The kernel owns the pages, so they outlive a
process that is killed; a power cut may take them, and with them the suspicion that a request caused it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

KEY_BYTES = 16
SLOTS = 64
"""Requests that may run at a time and be marked; those beyond are not."""
_FREE = bytes(KEY_BYTES)


class RunningMarks:
    """The marks in ``file``, which is made if need be. :raises OSError: it can't be.

    ``left`` are the keys that were marked when the last process ended.
    """

    def __init__(self, file: Path) -> None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Room on the disk too: to write to a page that has none would end the process.
            os.posix_fallocate(descriptor, 0, KEY_BYTES * SLOTS)
            self._pages = mmap.mmap(descriptor, KEY_BYTES * SLOTS)
        finally:
            os.close(descriptor)
        self.left = [key for slot in range(SLOTS) if (key := self._read(slot)) != _FREE]
        self._pages[:] = _FREE * SLOTS
        self._slots: dict[bytes, int] = {}
        self._free = list(range(SLOTS))

    def set(self, key: bytes) -> None:
        if key not in self._slots and self._free:
            self._slots[key] = slot = self._free.pop()
            self._write(slot, key)

    def clear(self, key: bytes) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._write(slot, _FREE)
            self._free.append(slot)

    def close(self) -> None:
        self._pages.close()

    def _read(self, slot: int) -> bytes:
        return self._pages[slot * KEY_BYTES : (slot + 1) * KEY_BYTES]

    def _write(self, slot: int, key: bytes) -> None:
        self._pages[slot * KEY_BYTES : (slot + 1) * KEY_BYTES] = key
