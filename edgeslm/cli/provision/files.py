"""Private files: written atomically, readable only by their owner."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgeslm.errors import ProvisionError


def write_private(
    file: Path,
    content: bytes,
    *,
    replace: bool = False,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
) -> None:
    """Writes a file, synced to disk.

    :param owner: ids of user and group, which only root can set; None for those of this process.
    :raises ProvisionError: the file can't be written, or exists and ``replace`` is false.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".new-")  # created with mode 0600
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                if owner is not None and os.geteuid() == 0:
                    os.fchown(stream.fileno(), *owner)
                os.fchmod(stream.fileno(), mode)
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
    """Like :func:`write_private`, but doesn't write a file that already has this content."""
    try:
        if file.read_bytes() == content:
            return
    except OSError:
        pass
    write_private(file, content, replace=replace)


def _link(beside: Path, file: Path) -> None:
    try:
        file.hardlink_to(beside)  # fails if the file exists, unlike a rename
    except FileExistsError:
        raise ProvisionError(f"{file} is there already; --force overwrites it") from None
