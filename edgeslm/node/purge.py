"""``edgeslm purge``: erases the messages that the user has chosen from all files in which a node stores them.

A node stores texts of messages in the journal (answers, spool, windows), in remembered passages, in
corrections and in samples for teaching. Journal files that the node renamed because they were damaged can't
be searched and are deleted whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeslm.errors import EdgeslmError, JournalError
from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.database import find_collection
from edgeslm.knowledge.service.memory import forget
from edgeslm.storage.database import Database
from edgeslm.storage.erasure import erase_messages
from edgeslm.storage.erasure_filter import Choice
from edgeslm.storage.feedback_store import FeedbackStore
from edgeslm.storage.sample_store import SampleStore

PLACES = ("answers", "waiting", "windows", "remembered", "corrections", "samples", "damaged_files")
_TABLES = {"requests": "answers", "spool": "waiting", "windows": "windows"}


def purge(
    state_dir: Path,
    journals: Sequence[Database],
    collections: Iterable[Path],
    samples: Iterable[SampleStore],
    choice: Choice,
    *,
    dry_run: bool = False,
) -> dict[str, int]:
    """Erases messages that match ``choice``. The function opens and closes ``journals``.

    :return: a dict that maps each of :data:`PLACES` to the number of matching messages, and the place
        ``damaged_files`` to the number of damaged files.
    :raises EdgeslmError: a file can't be used, or a running node uses one of the journals (then nothing has
        been erased).
    """
    erased = dict.fromkeys(PLACES, 0)
    opened: list[tuple[Database, float]] = []
    try:
        for journal in journals:
            if journal.file.exists():
                off_s = _off_s(journal.file)
                _open(journal)
                opened.append((journal, off_s))
        for journal, off_s in opened:
            for table, count in erase_messages(journal, choice, off_s=off_s, dry_run=dry_run).items():
                erased[_TABLES[table]] += count
    finally:
        for journal, _ in opened:
            journal.close()
    for path in collections:
        if (file := find_collection(path)).exists():
            with Collection(file, writes=True) as collection:
                erased["remembered"] += forget(collection, choice, dry_run=dry_run)
    erased["corrections"] = FeedbackStore(state_dir).erase(choice, dry_run=dry_run)
    erased["samples"] = sum(one.erase(choice, dry_run=dry_run) for one in samples)
    for file in sorted(state_dir.glob("journal-*.damaged*")):
        erased["damaged_files"] += not file.name.endswith(("-wal", "-shm", ".taken"))
        if not dry_run:
            _remove(file)
    return erased


def _off_s(file: Path) -> float:
    """Seconds since the journal was last written."""
    written = max(one.stat().st_mtime for one in (file, file.with_name(f"{file.name}-wal")) if one.exists())
    return max(0.0, time.time() - written)


def _open(journal: Database) -> None:
    try:
        journal.open()
    except JournalError as error:
        if "is in use" not in str(error):
            raise
        raise EdgeslmError(
            f"{journal.file} is in use: the node runs, and would go on with what it has in memory. Stop it, "
            "purge, and start it again; requests wait at the broker meanwhile. Nothing was erased."
        ) from None


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise EdgeslmError(f"{file} can't be removed: {error.strerror}") from None
