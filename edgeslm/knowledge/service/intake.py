"""Document intake: new files are read, unchanged ones cost a hash, broken ones stop nothing."""

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
    """What came of adding files."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    """Documents whose files are gone."""
    broken: int = 0
    passages: int = 0
    """New ones, of new and of changed documents."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What folders held besides, by what it is."""

    def figures(self) -> dict[str, Any]:
        """By name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


class IntakeListener(ReadingListener):
    """Asked which files are wanted, told how each goes. By itself it wants all and says nothing."""

    def wants(self, path: Path) -> bool:
        """Whether a file is looked at at all."""
        return True

    def on_file(self, source: str) -> None:
        """It is looked at next."""

    def on_broken(self, path: Path, sentence: str) -> None:
        """It can't be read; what is there of it stays."""


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
    """Adds files and all that is below folders, each in a transaction of its own.

    They are read in a child process. A file over which that had to be ended is tried once more behind all
    others, and then left out (``quarantine``).

    :param sync: also remove the documents whose files were below ``paths`` and are gone.
    :param spares_empty: but none of a folder without any file: a disk that was unmounted leaves one.
    :param again: also read what is left out.
    :raises KnowledgeError: the collection can't be written; the documents so far are kept.
    """
    totals = Totals()
    late: list[tuple[Path, str]] = []
    with Reading() as reading:
        adding = _Adding(collection, reading, totals, embed, again, listener)
        for path, source in find_files(paths, totals.skipped):
            if not listener.wants(path):
                continue
            listener.on_file(source)
            try:
                adding.add(path, source)
            except _OnceMoreError:
                late.append((path, source))
        for path, source in late:
            listener.on_part(source, "once more")
            with suppress(_OnceMoreError):  # it is another one by now: the next time is its second
                adding.add(path, source)
    if sync:
        totals.removed = _remove_gone(collection, [path.absolute() for path in paths], spares_empty)
    return totals


class _OnceMoreError(Exception):
    """A file was given up for the first time, which may be chance."""


@dataclass(slots=True)
class _Adding:
    """Adds one file after the other."""

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
                    raise _OnceMoreError from None
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
    """:raises KnowledgeError: it can't be read."""
    try:
        status = path.stat()
        check_size(path, status)
        with path.open("rb") as file:
            # Before it is read: if it changes in between, the digest is the old one, and the next time is
            # another chance.
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KnowledgeError(f"{path}: {error.strerror}") from None
    return DocumentOrigin(digest, status.st_size, status.st_mtime, _address(path))


def _address(path: Path) -> str | None:
    """Where a file is; None for a name that no text can hold."""
    address = str(path.absolute())
    try:
        address.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, which Python has as half a surrogate pair
        return None
    return address


def _refuse_namesake(known: StoredDocument | None, path: Path) -> None:
    """Another file of the same name, of another folder, is not the new state of this one."""
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
    # Looked at behind the files: a disk may be unplugged at any moment.
    folders = [path for path in paths if path.is_dir() and not (spares_empty and _is_empty(path))]
    return sum(
        collection.remove(source)
        for source, file in gone
        if file in paths or any(file.is_relative_to(folder) for folder in folders)
    )


def _is_empty(folder: Path) -> bool:
    return next(iter(find_files([folder])), None) is None


def _is_gone(file: Path) -> bool:
    """What may not be looked at now is not gone."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
