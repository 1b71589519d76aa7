"""Bundle writer: builds a bundle in a staging folder, writes its manifest, then renames it into place.

A folder with the bundle's final name is always complete. The same source and recipe give the same bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeslm.bundle import writer
from edgeslm.bundle.manifest import MANIFEST, Manifest
from edgeslm.errors import ExportError

UNDATED = "1970-01-01T00:00:00Z"
"""Value of ``created`` in the manifest of a bundle whose source has no date. File dates aren't used, since
copying changes them."""

write_report = writer.write_report

_release: ContextVar[int | None] = ContextVar("release", default=None)
_replaces: ContextVar[bool] = ContextVar("replaces", default=False)
_HERE, _EXCHANGE = -100, 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of renameat2(2)."""
_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.partial")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A staging folder next to ``out``, renamed to ``out`` at the end of the block, or removed if the block
    raises.

    Leftovers of killed exports to the same ``out`` are removed first.

    :raises ExportError: the folder ``out`` exists, or its parent is a bundle or can't be written.
    """
    check_absent(out)
    parent = out.resolve().parent
    if (parent / MANIFEST).exists():
        raise ExportError(f"{parent} is a bundle, which may hold nothing else; name a folder outside of it.")
    stage = parent / f".{out.name}.{os.getpid()}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent, out.name)
        stage.mkdir()
    except OSError as error:
        raise ExportError(f"{parent} can't be written: {error.strerror}.") from None
    try:
        yield stage
        check_absent(out)
        if out.exists():
            os.sync()
            _exchange(stage, out)
        else:
            stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Exchanges two folders in one step, so that a power cut leaves either of them in place.

    :raises ExportError: the file system can't do that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        why = os.strerror(ctypes.get_errno())
        raise ExportError(f"{other} can't be replaced on this file system ({why}); remove it first.")


def check_absent(out: Path, *, can_replace: bool = False) -> None:
    """:param can_replace: whether the command has the option ``--replace``.

    :raises ExportError: ``out`` exists, unless it is a bundle that may be replaced.
    """
    is_bundle = (out / MANIFEST).is_file() and not out.is_symlink()
    if is_bundle and _replaces.get():
        return
    if out.exists() or out.is_symlink():
        how = "add --replace, " if is_bundle and can_replace else ""
        raise ExportError(f"{out} exists already; {how}name another folder or remove it.")


@contextlib.contextmanager
def replacing() -> Iterator[None]:
    """Lets bundles that are written within the block replace earlier ones of the same path."""
    before = _replaces.set(True)
    try:
        yield
    finally:
        _replaces.reset(before)


def _sweep(parent: Path, name: str) -> None:
    for folder in parent.glob(".*.partial"):
        match = _PARTIAL.fullmatch(folder.name)
        if match and match["name"] == name and not Path("/proc", match["pid"]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def created_at(revised: str) -> str:
    """A bundle's creation time in UTC: the time in the variable ``SOURCE_DATE_EPOCH``
    (reproducible-builds.org) or, without it, the source's revision date.

    :raises ExportError: the variable isn't a number.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return revised or UNDATED
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch)))
    except (ValueError, OverflowError):
        raise ExportError(f"SOURCE_DATE_EPOCH is {epoch!r}; give seconds since 1970 or unset it.") from None


def runtime_versions(*packages: str) -> dict[str, str]:
    """Installed version of each package."""
    return {package: version(package) for package in packages}


@contextlib.contextmanager
def releasing(number: int) -> Iterator[None]:
    """Sets the release number of all manifests that are written within the block."""
    before = _release.set(number)
    try:
        yield
    finally:
        _release.reset(before)


def release_number() -> int | None:
    """The number of ``releasing``."""
    return _release.get()


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> Manifest:
    """Writes ``manifest.json``, with the path, size and digest of every file of ``folder``, and with the
    release number of ``releasing``.

    :param fields: the manifest without ``files``.
    """
    if (number := _release.get()) is not None:
        fields = {**fields, "release": number}
    return writer.write_manifest(folder, fields)
