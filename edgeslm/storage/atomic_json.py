"""Atomic files: small texts and JSON records, replaced in one step, so that a power cut can't leave half a
file."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any


def write_record(file: Path, value: object, *, mode: int = 0o600) -> None:
    """Writes a JSON file atomically: the file always has either the old or the new content.

    :param mode: permissions of the file; by default only its owner can read it.
    :raises OSError: the file can't be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    _replace(file, json.dumps(value, ensure_ascii=False, indent=1), mode)


def read_record(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if it is missing, can't be read or isn't an object."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def rewrite_text(file: Path, text: str) -> None:
    """Replaces the content of an existing file atomically; permissions and owner stay.

    :raises OSError: the file can't be written, or it belongs to another user.
    """
    status = file.stat()
    if status.st_uid != os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "it belongs to another user", str(file))
    _replace(file, text, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def _replace(file: Path, text: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as stream:
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)  # open() applies the umask
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    sync(file.parent)


def sync(path: Path) -> None:
    """Syncs a file's content, or a folder's entries, to the disk. :raises OSError: the disk failed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
