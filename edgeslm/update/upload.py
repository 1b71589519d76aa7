"""Upload: an archive that arrives in pieces over MQTT, with the command ``models/receive``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
import time
from pathlib import Path
from typing import IO, Final

from edgeslm.errors import Busy, InvalidRequest

PIECE_BYTES: Final = 44_000
"""Size of a piece; a command has 65,536 bytes at most, and Base64 needs a third more."""
IDLE_S: Final = 60.0
"""Seconds after which another upload may replace one that gets no more pieces."""


class Upload:
    """At most one upload at a time, in a file without a name, which doesn't outlive the node.

    :param budget_bytes: maximum size of an archive.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._id: str | None = None
        self._file: IO[bytes] | None = None
        self._size = 0
        self._hash = hashlib.sha256()
        self._at = 0.0

    def add(self, id: str, offset: int, data: str) -> int:
        """Adds a piece, in Base64. A piece that came before is ignored.

        :return: number of bytes so far.
        :raises Busy: another upload is being made.
        :raises InvalidRequest: a piece before is missing, this isn't Base64, or the archive is too large.
        :raises OSError: a disk error.
        """
        try:
            piece = base64.b64decode(data, validate=True)
        except binascii.Error:
            raise InvalidRequest("The command's 'data' isn't Base64.") from None
        if id != self._id:
            self._begin(id, offset)
        if offset + len(piece) <= self._size or self._file is None:
            return self._size
        if offset != self._size:
            raise InvalidRequest(f"The piece at byte {self._size} is missing; begin again.")
        if self._size + len(piece) > self._budget_bytes:
            self.close()
            limit = f"{self._budget_bytes} bytes (updates.budget_bytes)"
            raise InvalidRequest(f"The archive is larger than {limit}.")
        self._file.write(piece)
        self._hash.update(piece)
        self._size += len(piece)
        self._at = time.monotonic()
        return self._size

    def _begin(self, id: str, offset: int) -> None:
        if self._file is not None and time.monotonic() - self._at < IDLE_S:
            raise Busy("another archive is being received; try again later")
        if offset:
            raise InvalidRequest("This archive isn't being received (any more); begin again at byte 0.")
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._id, self._file = id, tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self._at = time.monotonic()

    def finish(self, id: str, sha256: str) -> IO[bytes]:
        """The complete archive; the caller closes it.

        :raises InvalidRequest: another archive was received, or a piece is missing.
        """
        file, digest = self._file, self._hash.hexdigest()
        if id != self._id or file is None or digest != sha256:
            raise InvalidRequest("The archive isn't complete; begin again.")
        self._file = None
        self.close()
        file.flush()
        file.seek(0)
        return file

    def close(self) -> None:
        """Deletes what was received."""
        if self._file is not None:
            self._file.close()
        self._id, self._file, self._size, self._hash = None, None, 0, hashlib.sha256()
