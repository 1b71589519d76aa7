"""The command file: passes commands of ``edgeslm models`` to this device's node, and returns the node's
answers. The commands need no permission in ``control.allow``, since whoever can write to the state folder is
the node's operator. A lock file shows whether the node runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeslm.errors import BundleError
from edgeslm.storage.atomic_json import read_record, write_record
from edgeslm.storage.file_ownership import is_ours
from edgeslm.update.store import FOLDER

LOOK_EVERY_S: Final = 0.2
LOCK_TRIES: Final = 20
LOCK_PAUSE_S: Final = 0.02


class FileCommand(BaseModel):
    """``digest``: digest of the bundle to activate. ``older``: whether the bundle may have a lower release
    than the highest proven release. ``file``: name of the archive to stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    action: Literal["activate", "rollback", "stage"]
    model: str
    digest: str | None = None
    older: bool = False
    file: str | None = None


class CommandFile:
    """Passes commands to one node; has methods for the node and methods for the process that sends
    commands."""

    def __init__(self, state_dir: Path, node: str) -> None:
        folder = state_dir / FOLDER
        self._command = folder / f"wish-{node}.json"
        self._outcome = folder / f"outcome-{node}.json"
        self._lock = folder / f"running-{node}.lock"

    # The node's side

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Context manager: holds the lock while the node runs. Deletes a command left by an earlier run."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        self._forget()
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            for _ in range(LOCK_TRIES):  # is_node_running holds it for a moment
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(LOCK_PAUSE_S)
            yield  # even without the lock: the journal refuses a second node of this name
        finally:
            os.close(descriptor)

    def _forget(self) -> None:
        self._command.unlink(missing_ok=True)

    def next(self) -> FileCommand | None:
        """The next command, returned only once; None if there is none."""
        try:
            with self._command.open("rb") as stream:
                trusted = is_ours(os.fstat(stream.fileno()))
                text = stream.read(65_536)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            self._command.unlink()
        if not trusted:
            return None
        try:
            return FileCommand.model_validate_json(text)
        except ValidationError:
            return None

    def tell(self, command: FileCommand, outcome: dict[str, Any]) -> None:
        """Writes the answer to ``command``. :raises OSError: a disk error."""
        write_record(self._outcome, {"id": command.id, **outcome})

    # The command's side

    @property
    def is_node_running(self) -> bool:
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def ask(
        self,
        action: Literal["activate", "rollback"],
        model: str,
        digest: str | None = None,
        *,
        older: bool = False,
    ) -> dict[str, Any]:
        """Sends a command and waits for the node's answer.

        :raises BundleError: the node ended before it answered. :raises OSError: the command can't be written.
        """
        command = self.make(action, model, digest, older=older)
        while (found := self.heard(command)) is None:
            if not self.is_node_running:
                raise BundleError("the node ended before it had done it")
            time.sleep(LOOK_EVERY_S)
        return found

    def make(
        self,
        action: Literal["activate", "rollback", "stage"],
        model: str,
        digest: str | None = None,
        *,
        older: bool = False,
        file: str | None = None,
    ) -> FileCommand:
        """Writes a command without waiting for the answer.

        :raises BundleError: another command is pending. :raises OSError: the command can't be written.
        """
        command = FileCommand(
            id=secrets.token_hex(8), action=action, model=model, digest=digest, older=older, file=file
        )
        self._write(command)
        return command

    def _write(self, command: FileCommand) -> None:
        if self._command.exists():
            raise BundleError("another command waits for the node; try again when that is done")
        write_record(self._command, command.model_dump(exclude_defaults=True))

    def heard(self, command: FileCommand) -> dict[str, Any] | None:
        """The node's answer to ``command``; None if there is none yet."""
        found = read_record(self._outcome)
        return found if found.get("id") == command.id else None

    def withdraw(self, command: FileCommand) -> None:
        """Deletes the command if the node hasn't read it."""
        with contextlib.suppress(OSError, ValidationError):
            if FileCommand.model_validate_json(self._command.read_bytes()).id == command.id:
                self._command.unlink()
