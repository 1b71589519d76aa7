"""Row checksums: CRC-32 over the content of a row, to detect bits that the disk has flipped.

SQLite checks the structure of its pages but not the bytes of a text, so a flipped bit in a stored result
would be sent. AES-GCM already authenticates an encrypted text (``encryption``), so the checksum then covers
only the other columns. Times and the deduplication keys of messages aren't covered, since salvage and
recovery change them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

COVERED = {
    "requests": ("result", "key", "attempts"),
    "spool": (
        *("payload", "topic", "retain", "response_topic", "correlation", "expiry_s", "size"),
        "identifiers",
    ),
    "windows": ("text", "route", "topic", "received", "name"),
}
"""For each table with checksums: the columns that a row's checksum covers; the first one may be encrypted."""
_OTHERS = {table: itemgetter(*columns[1:]) for table, columns in COVERED.items()}


def checksum(table: str, row: Mapping[str, Any], *, is_sealed: bool) -> int:
    """The checksum of a row, an unsigned 32-bit number. ``row`` maps the names of columns to their stored
    values; with ``is_sealed``, the text is encrypted."""
    others, text = _OTHERS[table](row), None if is_sealed else row[COVERED[table][0]]
    if text is None:
        return zlib.crc32(ascii(others).encode())
    raw = text if isinstance(text, bytes) else str(text).encode(errors="replace")
    # The length, so that no byte moves from the text to the others.
    return zlib.crc32(ascii((len(raw), others)).encode(), zlib.crc32(raw))


def is_sound(table: str, row: Mapping[str, Any], *, is_sealed: bool) -> bool:
    """Whether a row is as it was stored. A row without a checksum, of an earlier version, counts as sound."""
    return row["crc"] is None or row["crc"] == checksum(table, row, is_sealed=is_sealed)
