"""Damaged journals set aside: numbered copies that are never overwritten, each with its write-ahead log.

A journal that was made of a damaged one takes its place in steps that a power cut may part anywhere:
:func:`finish` does the rest at the next start.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from edgeslm.storage.atomic_json import sync, write_record

log = logging.getLogger("edgeslm.storage")

MOST = 8
"""Copies of one journal; beyond that the oldest is removed, since a failing disk would fill up with them."""
_COPY = re.compile(r"\.damaged(?:-(\d+))?")

Taken = Mapping[str, list[int]]
"""Numbers of rows of a copy that are in the journal or were, by table."""


def draft_of(journal: Path) -> Path:
    """Where the journal that takes the place of a damaged one is written."""
    return journal.with_suffix(".salvaged")


def copies(journal: Path) -> list[Path]:
    """Those of this journal, the oldest first. The first version called its only one ``.damaged``."""
    found = [file for file in journal.parent.glob(f"{journal.stem}.damaged*") if _COPY.fullmatch(file.suffix)]
    return sorted(found, key=_number)


def files_of(copy: Path) -> Iterator[Path]:
    """The copy itself and what lies beside it."""
    for suffix in ("", "-wal", "-shm", ".taken"):
        if (file := copy.with_name(copy.name + suffix)).exists():
            yield file


def replace(journal: Path, taken: Taken) -> Path:
    """Puts the finished draft in the place of the journal. :return: the copy.

    :raises OSError: the disk refuses it; nothing is lost.
    """
    before = copies(journal)
    copy = journal.with_suffix(f".damaged-{_number(before[-1]) + 1 if before else 1}")
    write_taken(copy, taken)
    journal.replace(copy)
    sync(journal.parent)
    finish(journal)
    for old in before[: max(0, len(before) + 1 - MOST)]:
        log.warning("%s is removed: there are more than %d damaged journals", old.name, MOST)
        for file in list(files_of(old)):
            file.unlink()
    return copy


def finish(journal: Path) -> None:
    """Ends what was begun by :func:`replace`. :raises OSError: the disk refuses it."""
    draft = draft_of(journal)
    if journal.exists() or not draft.exists():
        return
    # The log of the old file would be taken for one of the new.
    log_file = Path(f"{journal}-wal")
    if log_file.exists() and (there := copies(journal)):
        log_file.replace(f"{there[-1]}-wal")
        sync(journal.parent)
    for suffix in ("-wal", "-shm"):
        Path(f"{journal}{suffix}").unlink(missing_ok=True)
    draft.replace(journal)
    sync(journal.parent)


def _number(copy: Path) -> int:
    return int(copy.suffix.partition("-")[2] or 0)


def read_taken(copy: Path) -> dict[str, set[int]]:
    """Nothing of a copy that is no copy of this version's, or whose list can't be read."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads(_taken_file(copy).read_text())
        return {table: set(map(int, numbers)) for table, numbers in found.items()}
    return {}


def write_taken(copy: Path, taken: Mapping[str, list[int]]) -> None:
    """:raises OSError: the disk refuses it."""
    write_record(_taken_file(copy), {table: sorted(numbers) for table, numbers in taken.items()})


def _taken_file(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.taken")
