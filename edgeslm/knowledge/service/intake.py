"""Document intake: reads new and changed files; an unreadable file doesn't stop the others."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.index.collection import Collection, DocumentOrigin, Embed, StoredDocument
from edgeslm.knowledge.readers.limited import Reading, ReadingError, ReadingListener
from edgeslm.knowledge.readers.reader import check_size
from edgeslm.knowledge.readers.sources import find_files
from edgeslm.knowledge.service.quarantine import TRIES, Quarantine


@dataclass(slots=True)
class Totals:
    """Counts of the documents that :func:`add_files` handled."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    """Number of documents removed from the collection because their files are gone."""
    broken: int = 0
    passages: int = 0
    """Number of new passages in added and changed documents."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of skipped folder entries, by reason."""

    def figures(self) -> dict[str, Any]:
        """All counts by their names."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


class IntakeListener(ReadingListener):
    """Selects files and receives progress; by default, accepts all files and does nothing else."""

    def wants(self, path: Path) -> bool:
        """Whether to read a file."""
        return True

    def on_file(self, source: str) -> None:
        """Called before each file is read."""

    def on_broken(self, path: Path, sentence: str) -> None:
        """Called for an unreadable file, whose earlier version stays in the collection."""


SILENT: Final = IntakeListener()


def add_files(
    collection: Collection,
    paths: Sequence[Path],
    *,
    embed: Embed | None = None,
    sync: bool = False,
    spares_empty: bool = False,
    again: bool = False,
    listener: IntakeListener = SILENT,
) -> Totals:
    """Adds files and folders, each file in its own transaction.

    A child process reads the files. A file that reaches a limit or crashes the child is read again after all
    other files. After a second failure, the file is quarantined (module ``quarantine``).

    :param sync: whether to remove documents below ``paths`` whose files are gone.
    :param spares_empty: whether to keep documents of an empty folder, which may be an unmounted disk.
    :param again: whether to read quarantined files, too.
    :raises KnowledgeError: the collection can't be written; earlier documents are kept.
    """
    totals = Totals()
    retries: list[tuple[Path, str]] = []
    with Reading() as reading:
        intake = _Intake(collection, reading, totals, embed, again, listener)
        for path, source in find_files(paths, totals.skipped):
            if not listener.wants(path):
                continue
            listener.on_file(source)
            try:
                intake.add(path, source)
            except _RetryLaterError:
                retries.append((path, source))
        for path, source in retries:
            listener.on_part(source, "once more")
            with suppress(_RetryLaterError):  # the file changed: its second try is the next scan
                intake.add(path, source)
    if sync:
        totals.removed = _remove_gone(collection, [path.absolute() for path in paths], spares_empty)
    return totals


class _RetryLaterError(Exception):
    """Reading a file failed for the first time, possibly by chance."""


@dataclass(slots=True)
class _Intake:
    """Adds files one by one to a collection."""

    collection: Collection
    reading: Reading
    totals: Totals
    embed: Embed | None
    again: bool
    listener: IntakeListener

    def add(self, path: Path, source: str) -> None:
        """:raises KnowledgeError: the collection can't be written."""
        quarantine = Quarantine(self.collection)
        try:
            origin = _look_at(path)
            known = (origin.file and self.collection.find_file(origin.file)) or self.collection.find(source)
            if known is not None and known.origin.digest == origin.digest:
                if known.origin != origin:
                    self.collection.refresh(known.source, origin)
                self.totals.unchanged += 1
                return
            _refuse_namesake(known, path)
            source = source if known is None else known.source
            if not self.again and quarantine.tries(path, origin) >= TRIES:
                raise KnowledgeError(f"{source} could not be read within its limits; {_LEFT_OUT}")
            document, passages = self.reading.read(path, source, origin.size, self.listener)
        except ReadingError as error:
            if _is_still(path, origin):
                if quarantine.note(path, origin) < TRIES:
                    raise _RetryLaterError from None
                self._note_broken(path, f"{error}; {_LEFT_OUT}")
            else:
                self._note_broken(path, f"{source} changed while it was read")
            return
        except KnowledgeError as error:
            self._note_broken(path, str(error))
            return
        quarantine.release(path, origin)
        self.totals.passages += self.collection.put(document, passages, origin, embed=self.embed)
        if known is None:
            self.totals.added += 1
        else:
            self.totals.changed += 1

    def _note_broken(self, path: Path, sentence: str) -> None:
        self.totals.broken += 1
        self.listener.on_broken(path, sentence)


_LEFT_OUT = "it is left out until it changes or edgeslm knowledge add --again can read it"


def _is_still(path: Path, origin: DocumentOrigin) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime) == (origin.size, origin.mtime)


def _look_at(path: Path) -> DocumentOrigin:
    """:raises KnowledgeError: the file can't be read."""
    try:
        status = path.stat()
        check_size(path, status)
        with path.open("rb") as file:
            # Hash before reading: if the file changes in between, the old digest makes the next scan read it
            # again.
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KnowledgeError(f"{path}: {error.strerror}") from None
    return DocumentOrigin(digest, status.st_size, status.st_mtime, _address(path))


def _address(path: Path) -> str | None:
    """Absolute path; None if the path isn't valid Unicode."""
    address = str(path.absolute())
    try:
        address.encode()
    except UnicodeEncodeError:  # not UTF-8: Python uses surrogates
        return None
    return address


def _refuse_namesake(known: StoredDocument | None, path: Path) -> None:
    """:raises KnowledgeError: the document's source belongs to another file that still exists."""
    if known is None or known.origin.file is None:
        return
    other = Path(known.origin.file)
    if other.exists() and not other.samefile(path):
        raise KnowledgeError(
            f"{path}: the collection has a {known.source} already, from {other}; add a folder that both "
            "lie in, or use a collection for each"
        )


def _remove_gone(collection: Collection, paths: Sequence[Path], spares_empty: bool) -> int:
    gone = [(source, file) for source, file in collection.files() if _is_gone(file)]
    # Checked after the files, since a disk may be unplugged at any moment.
    folders = [path for path in paths if path.is_dir() and not (spares_empty and _is_empty(path))]
    return sum(
        collection.remove(source)
        for source, file in gone
        if file in paths or any(file.is_relative_to(folder) for folder in folders)
    )


def _is_empty(folder: Path) -> bool:
    return next(iter(find_files([folder])), None) is None


def _is_gone(file: Path) -> bool:
    """Whether a file was removed, not just inaccessible."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
