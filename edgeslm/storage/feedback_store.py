"""Feedback store: corrections of results, stored on this device for the next ``edgeslm-export tune``.

Each task has one JSON lines file in the format that ``tune`` reads. A row has the ``text``, the correct
``label`` or ``fields``, and the time ``at``; of the rows with the same text, training uses the newest. A row
that came over MQTT has its sender in ``by`` ("" if unnamed), and training doesn't use it until somebody
accepts it, which sets ``accepted``. A label that a model proposed, and that was accepted together with
others, has the model in ``proposed``. Texts leave the device only if somebody copies or fetches them.

A store with a :class:`~edgeslm.storage.encryption.Seal` has files of its own, whose texts and answers are
encrypted.
"""

from __future__ import annotations

import base64
import datetime
import fcntl
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeslm.errors import FeedbackError
from edgeslm.storage.erasure_filter import UNKNOWN_AGE_S, Choice, id_of

if TYPE_CHECKING:
    from edgeslm.storage.encryption import Seal

FOLDER = "feedback"
SEALED = "sealed"
"""Folder, within the other, of the files with encrypted rows."""
MOST_BYTES = 16_000_000
"""Maximum size of a task's file in bytes, enough for about 100,000 corrections, so that a flood of feedback
can't fill the disk."""


PROPOSED = "proposed"
"""Key of a row whose label was proposed by this model, and accepted together with others."""
_BY, _ACCEPTED = b'"by": ', b'"accepted": true'
"""Parts of a row's JSON; in a text or label their quotes have a backslash."""


@dataclass(frozen=True, slots=True)
class Correction:
    """The correct ``label`` or ``fields`` for ``text``."""

    task: str
    text: str
    label: str | None = None
    fields: Mapping[str, Any] | None = None
    id: str | None = None
    """The request's id, if the feedback gave one; `edgeslm purge --id` needs it."""
    by: str | None = None
    """The sender, if the correction came over MQTT; "" for a sender without a name."""
    proposed: str | None = None
    """The model that proposed the label, if somebody accepted it together with others."""

    def encode(self, now: datetime.datetime, seal: Seal | None = None) -> bytes:
        """The row. With a ``seal``, its text and answer are encrypted, but not its time, id and sender."""
        answer = {"label": self.label} if self.fields is None else {"fields": dict(self.fields)}
        content: dict[str, Any] = {"text": self.text, **answer}
        if seal is not None:
            sealed = seal.close(json.dumps(content).encode(), _place(self.task))
            content = {"sealed": base64.b64encode(sealed).decode()}
        name = {} if self.id is None else {"id": self.id}
        sender = {} if self.by is None else {"by": self.by}
        mark = {} if self.proposed is None else {PROPOSED: self.proposed}
        row = {**content, "at": now.isoformat(timespec="seconds"), **name, **sender, **mark}
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"


Row = Mapping[str, Any]
"""A row of a task's file: ``text``, ``label`` or ``fields``, ``at``; perhaps ``id``, ``by``, ``accepted``,
``proposed``."""


def is_waiting(row: Row) -> bool:
    """Whether a row came over MQTT and nobody has decided yet whether training uses it."""
    return "by" in row and "accepted" not in row


def is_used(row: Row) -> bool:
    """Whether training uses a row: it was said on this device, or was accepted."""
    return "by" not in row or row.get("accepted") is True


class FeedbackStore:
    """The corrections stored in the folder ``state_dir``. Several processes may write, since a lock protects
    each file."""

    def __init__(self, state_dir: Path, seal: Seal | None = None) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / FOLDER / (SEALED if seal is not None else "")
        self._seal = seal

    def file(self, task: str) -> Path:
        return self._folder / f"{task}.jsonl"

    def rows(self, task: str) -> list[Row]:
        """The task's corrections, the oldest first; damaged rows are left out.

        :raises FeedbackError: the file can't be read.
        """
        return [row for line in self._lines(task) if (row := self._read(task, line)) is not None]

    def used(self, task: str, most_bytes: int) -> list[Row]:
        """The newest labels that training uses, the oldest first, of ``most_bytes`` at most. However many
        others there are, they hide none and take no memory.

        :raises FeedbackError: the file can't be read.
        """
        kept, size = deque[bytes](), 0
        for line in self._lines(task):
            if _BY not in line or _ACCEPTED in line:
                kept.append(line)
                size += len(line)
                while size > most_bytes:
                    size -= len(kept.popleft())
        rows = (self._read(task, line) for line in kept)
        return [row for row in rows if row is not None and is_used(row)]

    def _lines(self, task: str) -> Iterator[bytes]:
        """:raises FeedbackError: the file can't be read."""
        file = self.file(task)
        try:
            with file.open("rb") as stream:
                yield from stream
        except FileNotFoundError:
            return
        except OSError as error:
            raise FeedbackError(f"{file} can't be read: {error.strerror}") from None

    def _read(self, task: str, line: bytes) -> Row | None:
        return _row(line if self._seal is None else _opened(line, self._seal, task))

    def take_back(self, task: str, text: str) -> None:
        """Removes the newest row of a text that was said on this device.

        :raises FeedbackError: the file can't be rewritten; it is unchanged.
        """

        def without_last(lines: list[bytes]) -> list[bytes]:
            for place in reversed(range(len(lines))):
                row = self._read(task, lines[place])
                if row is not None and row["text"] == text and "by" not in row:
                    return [*lines[:place], *lines[place + 1 :]]
            return lines

        _rewrite(self.file(task), without_last)

    def page(self, task: str, start: int, size: int) -> tuple[list[Row], int | None]:
        """The corrections of about ``size`` bytes of the task's file, from the byte ``start`` on.

        :return: the rows, and where the next page starts; None after the last one.
        :raises FeedbackError: the file can't be read.
        """
        file = self.file(task)
        try:
            with file.open("rb") as stream:
                stream.seek(start)
                lines = stream.readlines(size)
                place, end = stream.tell(), os.fstat(stream.fileno()).st_size
        except FileNotFoundError:
            return [], None
        except OSError as error:
            raise FeedbackError(f"{file} can't be read: {error.strerror}") from None
        rows = [row for line in lines if (row := _row(line)) is not None]
        return rows, place if place < end else None

    def decide(self, task: str, rows: Sequence[Row], *, use: bool) -> None:
        """Stores whether training uses ``rows``, which came over MQTT; other rows are unchanged.

        :raises FeedbackError: the file can't be rewritten; it is unchanged.
        """
        meant = [dict(row) for row in rows]

        def decided(line: bytes) -> bytes:
            row = _row(line)
            if row is None or not is_waiting(row) or row not in meant:
                return line
            return json.dumps({**row, "accepted": use}, ensure_ascii=False).encode() + b"\n"

        _rewrite(self.file(task), lambda lines: [decided(line) for line in lines])

    def has(self, correction: Correction) -> bool:
        """Whether the newest row of the correction's text is this correction, whenever it was stored.

        :raises FeedbackError: the file can't be read.
        """
        wanted = json.loads(correction.encode(datetime.datetime.now(datetime.UTC)))
        del wanted["at"]
        for row in reversed(self.rows(correction.task)):
            if row["text"] == correction.text:
                return bool({key: row[key] for key in row if key not in ("at", "accepted")} == wanted)
        return False

    def keep(self, correction: Correction) -> Path:
        """Appends a correction to the task's file. :return: the file. :raises FeedbackError: the file can't
        be written, or is full."""
        file = self.file(correction.task)
        row = correction.encode(datetime.datetime.now(datetime.UTC), self._seal)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(file)
            try:
                size = os.fstat(descriptor).st_size
                if not size:
                    _give_to_owner_of(self._state_dir, self._state_dir / FOLDER, file.parent, file)
                elif os.pread(descriptor, 1, size - 1) != b"\n":  # a row truncated by a power cut
                    row = b"\n" + row
                if size + len(row) > MOST_BYTES:
                    raise FeedbackError(
                        f"{file} has {MOST_BYTES:,} bytes, the most that are kept; learn from it with "
                        "edgeslm-export tune, then remove it"
                    )
                written = os.write(descriptor, row)
                if written < len(row):  # the disk is full: don't leave half a row
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
                    raise FeedbackError(f"{file} can't be written: no space left on the disk")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FeedbackError(f"{file} can't be written: {error.strerror}") from None
        return file

    def erase(self, choice: Choice, *, dry_run: bool = False) -> int:
        """Removes the rows that match ``choice``. :return: the number of these rows. :raises FeedbackError: a
        file can't be rewritten; that file is unchanged."""
        gone = 0

        def left(rows: list[bytes]) -> list[bytes]:
            nonlocal gone
            kept = [row for row in rows if not _fits(row, choice)]
            gone += len(rows) - len(kept)
            return rows if dry_run else kept

        for file in sorted(self._folder.glob("**/*.jsonl")):
            _rewrite(file, left)
        return gone


def _locked(file: Path) -> int:
    """Opens a file for appending and locks it. Retries if :func:`_rewrite` replaced the file meanwhile."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)


def _place(task: str) -> bytes:
    """The associated data that binds an encrypted row to its task."""
    return b"feedback " + task.encode()


def _opened(line: bytes, seal: Seal, task: str) -> bytes:
    """A line with its content decrypted; empty if that can't be read."""
    try:
        row = json.loads(line)
        content = json.loads(seal.open(base64.b64decode(row.pop("sealed")), _place(task)))
        return json.dumps({**row, **content}).encode()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return b""


def _row(line: bytes) -> Row | None:
    """The row in a line; None if it is damaged."""
    try:
        row = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        return None
    return row if isinstance(row.get("label"), str) or isinstance(row.get("fields"), dict) else None


def _rewrite(file: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replaces a file's lines by what ``change`` makes of them, unless they are the same."""
    try:
        descriptor = _locked(file)
        try:
            rows = file.read_bytes().splitlines(keepends=True)
            kept = change(rows)
            if kept != rows:
                beside = file.with_suffix(".new")
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
                with os.fdopen(os.open(beside, flags, 0o600), "wb") as stream:
                    stream.write(b"".join(kept))
                    stream.flush()
                    os.fsync(stream.fileno())
                status = os.fstat(descriptor)
                beside.chmod(status.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.chown(beside, status.st_uid, status.st_gid)
                beside.replace(file)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FeedbackError(f"{file} can't be written: {error.strerror}") from None


def _fits(row: bytes, choice: Choice) -> bool:
    try:
        at = datetime.datetime.fromisoformat(json.loads(row)["at"])
        age_s = (datetime.datetime.now(datetime.UTC) - at).total_seconds()
    except (ValueError, TypeError, KeyError, RecursionError):
        age_s = UNKNOWN_AGE_S
    return choice.fits(id_of(row), age_s)


def _give_to_owner_of(state_dir: Path, *made: Path) -> None:
    """Gives files created by root to the owner of the state folder, so that the node can write to them."""
    if os.geteuid() == 0:
        owner = state_dir.stat()
        for path in made:
            os.chown(path, owner.st_uid, owner.st_gid)
