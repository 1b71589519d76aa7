"""Files that only their owner may read: written whole or not at all. Knows no file's meaning."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgeslm.errors import ProvisionError


def write_private(file: Path, content: bytes, *, replace: bool = False) -> None:
    """Writes a file of mode 0600, on the disk when the call returns.

    :raises ProvisionError: it can't be written, or is there already and may not be replaced.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")  # mode 0600 from its beginning
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                beside.replace(file)
            else:
                _link(beside, file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ProvisionError(f"{file} can't be written: {error.strerror}") from None


def keep_private(file: Path, content: bytes, *, replace: bool = False) -> None:
    """As :func:`write_private`, but what is there and has the same content stays."""
    try:
        if file.read_bytes() == content:
            return
    except OSError:
        pass
    write_private(file, content, replace=replace)


def _link(beside: Path, file: Path) -> None:
    try:
        file.hardlink_to(beside)  # fails where a rename would replace
    except FileExistsError:
        raise ProvisionError(f"{file} is there already; --force writes it anew") from None
