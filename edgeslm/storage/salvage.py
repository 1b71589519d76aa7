"""Salvage: reads rows from a damaged SQLite file page by page, without SQLite.

One bad page in a B-tree can make a table, or the whole file, unreadable for SQLite. This module doesn't
follow the tree: it reads each table leaf page separately and recognizes a row's table by the types of the
columns. So the module finds all rows that SQLite can read, and also rows below damaged pages of the tree. The
write-ahead log is applied in the same way as by SQLite. The format is described in
sqlite.org/fileformat2.html, sections 1.6 (leaf and overflow pages), 2.1 (records) and 4 (log).

A leaf page begins with the byte 13, which a sender's text can't fake: an overflow page, which holds text,
begins with a 4-byte page number, whose first byte is 13 only in files above 100 GB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

Value = int | float | str | bytes | None
Row = tuple[int, tuple[Value, ...]]
"""Row number, and the values of the columns in order."""
Kind = tuple[type, ...]
"""Types that a column may hold."""

HEADER = b"SQLite format 3\0"
_TABLE_LEAF = 13
_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
NUMBER: Kind = (type(None),)
"""Type of the column with the row number, which SQLite stores as NULL."""
INTEGER: Kind = (int,)
TEXT: Kind = (str,)
BLOB: Kind = (bytes,)
ANY: Kind = (object,)


class DamagedFile:
    """An SQLite file with its write-ahead log. No other process may have the file open.

    ``shapes``: table -> types of its columns, by which rows are recognized. ``unreadable`` counts unreadable
    pages and damaged rows.
    """

    def __init__(self, file: Path, page_bytes: int, shapes: Mapping[str, tuple[Kind, ...]]) -> None:
        self._page_bytes = page_bytes
        self._shapes = shapes
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        self._log: int | None = None
        self._frames: dict[int, int] = {}
        self.unreadable = 0
        try:
            self._pages = -(-os.fstat(self._file).st_size // page_bytes)
            self._log = os.open(f"{file}-wal", os.O_RDONLY | os.O_CLOEXEC)
            self._read_log(self._log)
        except OSError:
            pass  # there is no log, or it can't be read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if self._log is not None:
            os.close(self._log)

    @property
    def user_version(self) -> int | None:
        """The format number; None if the header is damaged."""
        first = self._page(1)
        return int.from_bytes(first[60:64], "big") if first[:16] == HEADER else None

    def rows(self) -> Iterator[tuple[str, Row]]:
        """All rows with the name of their table, in page order."""
        self.unreadable = 0
        for number in range(1, self._pages + 1):
            page = self._page(number)
            if not page:
                self.unreadable += 1
                continue
            start = 100 if number == 1 else 0
            if page[start] == _TABLE_LEAF:
                yield from self._leaf(page, start)

    def _leaf(self, page: bytes, start: int) -> Iterator[tuple[str, Row]]:
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        for place in range(start + 8, min(start + 8 + 2 * count, len(page) - 1), 2):
            # The upper bits are always 0; SQLite ignores damage to them, too.
            cell = int.from_bytes(page[place : place + 2], "big") % self._page_bytes
            try:
                row = self._cell(page, cell)
            except (ValueError, IndexError, struct.error):
                self.unreadable += 1
                continue
            for table, kinds in self._shapes.items():
                if _fits(row[1], kinds):
                    yield table, row
                    break
            # Rows of SQLite's internal tables match none.

    def _cell(self, page: bytes, at: int) -> Row:
        size, at = _varint(page, at)
        number, at = _varint(page, at)
        usable = self._page_bytes
        here = size
        if size > usable - 35:
            least = (usable - 12) * 32 // 255 - 23
            here = least + (size - least) % (usable - 4)
            if here > usable - 35:
                here = least
        if size > self._pages * usable or at + here > len(page):
            raise ValueError("no such row")
        parts = [page[at : at + here]]
        left = size - here
        following = page[at + here : at + here + 4]
        while left > 0:
            overflow = self._page(int.from_bytes(following, "big"))
            if len(overflow) < usable:
                raise ValueError("a page of the row is missing")
            following = overflow[:4]
            parts.append(overflow[4 : 4 + left])
            left -= len(parts[-1])
        return number if number < 1 << 63 else number - (1 << 64), _record(b"".join(parts))

    def _page(self, number: int) -> bytes:
        """The content of a page; empty if it can't be read or doesn't exist."""
        if not 1 <= number <= self._pages:
            return b""
        try:
            if (frame := self._frames.get(number)) is not None and self._log is not None:
                return os.pread(self._log, self._page_bytes, frame)
            page = os.pread(self._file, self._page_bytes, (number - 1) * self._page_bytes)
        except OSError:
            return b""
        return page.ljust(self._page_bytes, b"\0") if page else b""

    def _read_log(self, log: int) -> None:
        """Finds the newest committed frame of each page, as far as the checksums are valid."""
        header = os.pread(log, _WAL_HEADER_BYTES, 0)
        if len(header) < _WAL_HEADER_BYTES:
            return
        magic, _, page_bytes, _, *salts = struct.unpack(">6I", header[:24])
        order = _WAL_MAGIC.get(magic)
        if order is None or page_bytes != self._page_bytes:
            return
        sums = _checksum(header[:24], order, (0, 0))
        if sums != struct.unpack(">2I", header[24:]):
            return
        at = _WAL_HEADER_BYTES
        found: dict[int, int] = {}
        while True:
            try:
                frame = os.pread(log, _FRAME_HEADER_BYTES + page_bytes, at)
            except OSError:
                return
            if len(frame) < _FRAME_HEADER_BYTES + page_bytes:
                return
            number, pages, *rest = struct.unpack(">6I", frame[:24])
            sums = _checksum(frame[:8] + frame[24:], order, sums)
            if rest[:2] != salts or tuple(rest[2:]) != sums:
                return
            found[number] = at + _FRAME_HEADER_BYTES
            if pages:  # a commit frame, with the file size after it
                self._frames |= found
                found.clear()
                self._pages = pages
            at += len(frame)


def _fits(values: tuple[Value, ...], kinds: tuple[Kind, ...]) -> bool:
    return len(values) == len(kinds) and all(map(isinstance, values, kinds))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at ``at``, and the offset after it. :raises IndexError: the data ends too early."""
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _record(data: bytes) -> tuple[Value, ...]:
    """Decodes a record. :raises ValueError, IndexError, struct.error: the data isn't a record."""
    end, at = _varint(data, 0)
    kinds = []
    while at < end:
        kind, at = _varint(data, at)
        kinds.append(kind)
    values: list[Value] = []
    at = end
    for kind in kinds:
        size = _INTEGER_BYTES.get(kind, 0)
        if kind == 0:
            values.append(None)
        elif size:
            values.append(int.from_bytes(data[at : at + size], "big", signed=True))
        elif kind == 7:
            size = 8
            values.append(struct.unpack(">d", data[at : at + size])[0])
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind >= 12:
            size = (kind - 12) // 2
            part = data[at : at + size]
            values.append(part.decode(errors="replace") if kind % 2 else part)
        else:
            raise ValueError("no such kind of value")
        at += size
        if at > len(data):
            raise ValueError("the row ends too early")
    return tuple(values)


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one in words:
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + next(words) + first) & 0xFFFFFFFF
    return first, second
