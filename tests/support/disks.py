"""Disks without room, and disks that flip bits."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

from edgeslm.storage.database import Database


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes: as on a full disk, a write ends there or fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flip(database: Database, statement: str) -> None:
    """Changes rows of a journal beneath it, as a disk does that flips bits: their checksums stay."""
    triggers = database.all_rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    for name, _ in triggers:
        database.write(f"DROP TRIGGER {name}")
    database.write(statement)
    for _, sql in triggers:
        database.write(sql)
