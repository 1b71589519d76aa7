"""Audit log: one JSON line per request with time, task, client and status, without texts.

Each line is appended by a single write call; the file is rotated by size. If the disk is full, requests are
still answered; lost lines are counted and reported in ``health``. Clients are identified by reply topic and
request id, which they choose themselves.
"""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeslm.config.sections import Audit
from edgeslm.errors import plural

log = logging.getLogger("edgeslm.telemetry")

LONGEST = 256
"""Maximum length, in characters, of a string that a client chose; the rest is cut off."""


class AuditLog:
    """Writes the log of one node; does nothing if ``section`` names no file."""

    def __init__(self, section: Audit) -> None:
        self._file = section.file
        self._most_bytes = section.max_bytes
        self._files = section.files
        self._descriptor: int | None = None
        self._size = 0
        self.lost = 0
        """Number of lines that could not be written."""
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """An alert as a sentence while lines can't be written, else None."""
        if self._problem is None:
            return None
        return f"The audit log can't be written ({self._problem}); {plural(self.lost, 'line')} lost so far."

    def note(self, what: str, **fields: Any) -> None:
        """Writes one line; fields that are None are left out."""
        if self._file is None:
            return
        at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        told = {name: _short(value) for name, value in fields.items() if value is not None}
        line = json.dumps({"at": at, "what": what, **told}).encode() + b"\n"
        try:
            self._append(self._file, line)
        except OSError as error:
            self.lost += 1
            if self._problem is None:
                log.error("the audit log %s can't be written: %s", self._file, error.strerror)
            self._problem = error.strerror or type(error).__name__
            self.close()
            return
        if self._problem is not None:
            log.warning("the audit log can be written again; %d lines are lost", self.lost)
            self._problem = None

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, file: Path, line: bytes) -> None:
        if self._descriptor is not None and self._size + len(line) > self._most_bytes:
            self._rotate(file)
        if self._descriptor is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(file, flags, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        written = os.write(self._descriptor, line)
        if written < len(line):  # remove the half line
            os.ftruncate(self._descriptor, self._size)
            raise OSError(28, "no space left on the disk")
        self._size += written

    def _rotate(self, file: Path) -> None:
        self.close()
        for number in range(self._files - 1, 0, -1):
            older = file.with_name(f"{file.name}.{number}")
            newer = file.with_name(f"{file.name}.{number - 1}") if number > 1 else file
            if newer.exists():
                newer.replace(older)
        if self._files == 1:
            file.unlink(missing_ok=True)


def _short(value: Any) -> Any:
    return value[:LONGEST] if isinstance(value, str) else value
