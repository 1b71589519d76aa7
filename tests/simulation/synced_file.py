"""A file of a simulated disk, which knows what was synced."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

SECTOR = 512


@dataclass
class SyncedFile:
    """``durable`` maps each sector that was written since the last sync to its content at the last sync."""

    path: str
    fd: int
    durable: dict[int, bytes] = field(default_factory=dict)
    durable_size: int | None = None
    """Size at the last sync; None if the size hasn't changed since."""
    tail: tuple[int, bytes] | None = None
    """What the file was made shorter by since the last sync: its offset, and its content at that sync."""

    def is_synced(self) -> None:
        self.durable.clear()
        self.durable_size = self.tail = None

    def write(self, data: bytes, offset: int) -> None:
        size = os.fstat(self.fd).st_size
        if offset + len(data) > size and self.durable_size is None:
            self.durable_size = size
        for sector in range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1):
            if sector not in self.durable:
                self.durable[sector] = os.pread(self.fd, SECTOR, sector * SECTOR).ljust(SECTOR, b"\0")
        os.pwrite(self.fd, data, offset)

    def truncate(self, size: int) -> None:
        before = os.fstat(self.fd).st_size
        if size == before:
            return
        if self.durable_size is None:
            self.durable_size = before
        if size < before:
            self._cut(size)
        os.ftruncate(self.fd, size)

    def _cut(self, size: int) -> None:
        later = {one: self.durable.pop(one) for one in list(self.durable) if one * SECTOR >= size}
        length = (self.durable_size or 0) - size
        if length <= 0 or (self.tail is not None and self.tail[0] <= size):
            return  # nothing of this was there at the last sync, or an earlier cut took it
        tail = bytearray(os.pread(self.fd, length, size).ljust(length, b"\0"))
        for sector, content in later.items():
            at = sector * SECTOR - size
            tail[at : at + SECTOR] = content
        if self.tail is not None:
            tail[self.tail[0] - size :] = self.tail[1]
        self.tail = size, bytes(tail[:length])

    def lose(self, chance: random.Random) -> None:
        """Takes a random part of what wasn't synced. The end that was cut off is there as a whole or not at
        all, as in a file system with a journal."""
        if not self.durable and self.durable_size is None:
            return
        size = os.fstat(self.fd).st_size
        keeps = chance.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        is_long_again = self.tail is not None and chance.random() >= keeps
        for sector, content in self.durable.items():
            if chance.random() >= keeps:
                os.pwrite(self.fd, content, sector * SECTOR)
        if self.tail is not None and is_long_again:
            os.pwrite(self.fd, self.tail[1], self.tail[0])
            size = self.durable_size or 0
        elif self.durable_size is not None and chance.random() >= keeps:
            size = self.durable_size if self.tail is None else self.tail[0]
        os.ftruncate(self.fd, size)
        self.is_synced()
