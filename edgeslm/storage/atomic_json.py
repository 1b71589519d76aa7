"""Atomic JSON files: small records, replaced in one step, so that a power cut can't leave half a file."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path


def write_record(file: Path, value: object, *, mode: int = 0o600) -> None:
    """Writes a JSON file atomically: the file always has either the old or the new content.

    :param mode: permissions of the file; by default only its owner can read it.
    :raises OSError: the file can't be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            os.fchmod(stream.fileno(), mode)  # open() applies the umask
            json.dump(value, stream, ensure_ascii=False, indent=1)
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
