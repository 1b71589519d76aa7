"""Running marks: a memory-mapped file that records which requests are being computed and survives a crash.

Marking a request costs a write to memory, not to the disk. A power cut may lose the marks; then no request is
blamed for the power cut.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

KEY_BYTES = 16
SLOTS = 64
"""Number of requests that can be marked at a time; further requests run unmarked."""
_FREE = bytes(KEY_BYTES)


class RunningMarks:
    """The marks in ``file``, which is created if missing. ``left``: keys of the requests that were running
    when the last process ended; they stay marked until :meth:`clear`.

    :raises OSError: the file can't be created.
    """

    def __init__(self, file: Path) -> None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Allocates disk space: writing to a page without it would kill the process by SIGBUS.
            os.posix_fallocate(descriptor, 0, KEY_BYTES * SLOTS)
            self._pages = mmap.mmap(descriptor, KEY_BYTES * SLOTS)
        finally:
            os.close(descriptor)
        self._slots = {key: slot for slot in range(SLOTS) if (key := self._read(slot)) != _FREE}
        self.left = list(self._slots)
        self._free = [slot for slot in range(SLOTS) if slot not in self._slots.values()]

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
