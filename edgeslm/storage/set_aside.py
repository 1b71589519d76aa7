"""Copies of damaged journals: numbered, never overwritten, each with the journal's write-ahead log.

Replacing a damaged journal takes several steps. If a power cut interrupts the replacement at any step,
:func:`finish` completes it at the next start.
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
"""Maximum number of copies; above it, the oldest copy is removed, so that a failing disk doesn't fill up with
copies."""
_COPY = re.compile(r"\.damaged(?:-(\d+))?")

Taken = Mapping[str, list[int]]
"""For each table, the numbers of the copy's rows whose content the journal has or had."""


def draft_of(journal: Path) -> Path:
    """Path of the draft of a new journal, which will replace the damaged ``journal``."""
    return journal.with_suffix(".salvaged")


def copies(journal: Path) -> list[Path]:
    """Copies of this journal, oldest first. Version 0.1.0 of edgeslm kept only one copy, with the suffix
    ``.damaged``."""
    found = [file for file in journal.parent.glob(f"{journal.stem}.damaged*") if _COPY.fullmatch(file.suffix)]
    return sorted(found, key=_number)


def files_of(copy: Path) -> Iterator[Path]:
    """Yields the files of a copy: the journal itself, its SQLite logs, and the list of rows that were
    transferred from the copy."""
    for suffix in ("", "-wal", "-shm", ".taken"):
        if (file := copy.with_name(copy.name + suffix)).exists():
            yield file


def replace(journal: Path, taken: Taken) -> Path:
    """Renames the damaged journal to the name of a new copy, and the finished draft to the journal's name.
    :return: the copy.

    :raises OSError: the disk failed; nothing is lost.
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
    """Completes an interrupted :func:`replace`. :raises OSError: the disk failed."""
    draft = draft_of(journal)
    if journal.exists() or not draft.exists():
        return
    # The old file's log would be applied to the new file.
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
    """For each table, the numbers of the rows that were transferred from a copy; empty if the list of these
    rows can't be read or is missing (version 0.1.0)."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads(_taken_file(copy).read_text())
        return {table: set(map(int, numbers)) for table, numbers in found.items()}
    return {}


def write_taken(copy: Path, taken: Mapping[str, list[int]]) -> None:
    """:raises OSError: the list can't be written."""
    write_record(_taken_file(copy), {table: sorted(numbers) for table, numbers in taken.items()})


def _taken_file(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.taken")
