"""Watched folder of bundles: finds new bundles and archives, once they are copied completely.

A bundle is a folder ``<folder>/<model>`` or an archive with one of the ``ENDINGS``, such as
``<folder>/<model>.tar``. A copy is complete when two scans in a row find the same names, sizes and times.
Each version of a bundle is installed once. If the node ends during the installation, such as in a power cut,
the installation is tried once more. The functions block, so the event loop must call them in a thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from edgeslm.bundle.bounded_files import DEEPEST
from edgeslm.storage.atomic_json import read_record, write_record

ENDINGS: Final = (".tar", ".tar.gz", ".tgz", ".tar.xz")
MOST_FILES: Final = 10_000
MOST_BEGUN: Final = 2
"""Maximum number of attempts to install a version of a bundle, if the node ends during each attempt."""


class Incoming:
    """:param record: file that records which versions of bundles were installed or refused."""

    def __init__(self, folder: Path, record: Path) -> None:
        self._folder = folder
        self._record = record
        self._last: dict[str, str] = {}
        self.problem: str | None = None
        """Why the folder can't be read, as a sentence; None if it can."""

    def look(self, models: Collection[str]) -> list[tuple[str, Path, str]]:
        """New bundles, each with its model, its path, and a hash that identifies its version (``mark`` of
        :meth:`begin` and :meth:`end`)."""
        self.problem = None
        present: dict[str, tuple[Path, str]] = {}
        try:
            for path in sorted(self._folder.iterdir()):
                model = model_of(path)
                if model in models and (mark := _mark(path)) is not None:
                    present[model] = (path, mark)
        except OSError as error:
            self.problem = f"The folder of new models {self._folder.name} can't be read: {error.strerror}."
            return []
        before, self._last = self._last, {model: mark for model, (_, mark) in present.items()}
        taken = self._taken()
        return [
            (model, path, mark)
            for model, (path, mark) in present.items()
            if before.get(model) == mark and taken.get(model, {}).get(mark, 0) < MOST_BEGUN
        ]

    def begin(self, model: str, mark: str) -> None:
        """Records the start of a bundle's installation. :raises OSError: a disk error."""
        taken = self._taken()
        begun = taken.get(model, {}).get(mark, 0) + 1
        write_record(self._record, {**taken, model: {mark: begun}})

    def end(self, model: str, mark: str, *, again: bool = False) -> None:
        """Records the end of a bundle's installation.

        :param again: whether :meth:`look` returns this version of the bundle again. :raises OSError: a disk
            error.
        """
        write_record(self._record, {**self._taken(), model: {mark: 0 if again else MOST_BEGUN}})

    def _taken(self) -> dict[str, dict[str, int]]:
        """Number of installations started, by model and hash of the bundle's version."""
        return {
            model: {mark: number for mark, number in begun.items() if isinstance(number, int)}
            for model, begun in read_record(self._record).items()
            if isinstance(begun, dict)
        }


def model_of(path: Path) -> str:
    """The model's name, which is the name of the file or folder without an archive's suffix."""
    for ending in ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.name


def _mark(path: Path) -> str | None:
    """A hash of the files' names, sizes and times; None if ``path`` isn't a bundle yet."""
    if path.is_dir():
        if not (path / "manifest.json").is_file():
            return None
        files = sorted(islice(_files(path), MOST_FILES))
    elif path.is_file() and path.name.endswith(ENDINGS):
        files = [path]
    else:
        return None
    seen = hashlib.sha256()
    for file in files:
        status = file.stat()
        seen.update(f"{file.relative_to(path.parent)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, down to the depth that a bundle may have."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        if len(Path(place).relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        yield from (file for name in sorted(names) if (file := Path(place, name)).is_file())
