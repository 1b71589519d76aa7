"""Document sources: finds the documents below some paths, and the names under which they are cited."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgeslm.knowledge.documents.kinds import find_kind, plain_suffix

_DEEPEST = 100
"""Maximum depth of folders, since ``os.walk`` may recurse for each level."""


def find_files(paths: Iterable[Path], skipped: Counter[str] | None = None) -> Iterator[tuple[Path, str]]:
    """Yields each document once, with a unique source name.

    A path that is not a folder is always included, even if the file is missing or unsupported; reading the
    file reports the reason. Folders yield files of supported formats, sorted, without hidden files and links
    that lead outside. The source name is the path within the folder, or the file's name. If an earlier
    document has this name, parent folders are added to the name.

    :param skipped: counts skipped entries by reason, such as ``.png``, ``hidden`` or ``link``.
    """
    skipped = Counter() if skipped is None else skipped
    seen: set[Path] = set()
    sources: set[str] = set()
    for path in paths:
        for file, inside in _files(path, skipped) if path.is_dir() else [(path, path.name)]:
            real = _real(file)
            if real not in seen:
                seen.add(real)
                names = (name.encode(errors="replace").decode() for name in _names(file, inside))
                source = next(name for name in names if name not in sources)
                sources.add(source)
                yield file, source


def _files(folder: Path, skipped: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Supported files below a folder, with their relative paths."""

    def unreadable(_error: OSError) -> None:
        skipped["unreadable"] += 1

    real = folder.resolve()
    for place, folders, files in os.walk(folder, onerror=unreadable):
        for name in sorted(folders):
            if reason := "hidden" if name[0] == "." else "link" if Path(place, name).is_symlink() else None:
                folders.remove(name)
                skipped[reason] += 1
        folders.sort()
        if folders and len(Path(place).relative_to(folder).parts) >= _DEEPEST:
            skipped["too deep"] += len(folders)
            folders.clear()
        for name in sorted(files):
            file = Path(place, name)
            if reason := _reason_to_skip(file, real):
                skipped[reason] += 1
            else:
                yield file, file.relative_to(folder).as_posix()


def _reason_to_skip(file: Path, folder: Path) -> str | None:
    if file.name[0] == ".":
        return "hidden"
    try:
        if file.is_symlink() and not _real(file).is_relative_to(folder):
            return "link"
        if not file.is_file():
            return "no file"
    except OSError:  # in a folder that may be listed but not entered
        return "unreadable"
    if find_kind(file) is None:
        return plain_suffix(file) or file.suffix.lower() or "without a suffix"
    return None


def _real(file: Path) -> Path:
    """Path without links. ``Path.resolve`` is not used, since before Python 3.13 it raises for a link to
    itself."""
    return Path(os.path.realpath(file))


def _names(file: Path, inside: str) -> Iterator[str]:
    """Yields the source names to try, in order: the relative path, the path with more and more parent
    folders, and the relative path with a number at the end."""
    yield inside
    parts = file.absolute().as_posix().strip("/").split("/")
    for count in range(inside.count("/") + 2, len(parts) + 1):
        yield "/".join(parts[-count:])
    number = 2
    while True:
        yield f"{inside} ({number})"
        number += 1
