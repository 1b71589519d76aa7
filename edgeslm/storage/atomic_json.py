"""Atomic JSON files: small records, replaced in one step that outlives a power cut.

Knows no file's meaning. Whose a file is tells ``file_ownership``.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path


def write_record(file: Path, value: object, *, mode: int = 0o600) -> None:
    """The old content or the new one is there at any moment, for its owner alone unless told otherwise.

    :raises OSError: why not.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            os.fchmod(stream.fileno(), mode)  # whatever the umask is
            json.dump(value, stream, ensure_ascii=False, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    sync(file.parent)


def sync(path: Path) -> None:
    """Has the disk keep a file, or a folder's names. :raises OSError: the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
