"""The command file: how ``edgeslm models`` has a node on the same device do something. Two files.

The node need not allow any command over the bus for that: whoever can write into its state folder is its
operator. A lock tells whether the node runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeslm.errors import BundleError
from edgeslm.storage.atomic_json import write_record
from edgeslm.storage.file_ownership import is_ours
from edgeslm.update.store import FOLDER

LOOK_EVERY_S: Final = 0.2
LOCK_TRIES: Final = 20
LOCK_PAUSE_S: Final = 0.02


class FileCommand(BaseModel):
    """``digest`` of the bundle to activate, ``older`` or not; ``file`` of an archive to stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    action: Literal["activate", "rollback", "stage"]
    model: str
    digest: str | None = None
    older: bool = False
    file: str | None = None


class CommandFile:
    """Both ends, of one node."""

    def __init__(self, state_dir: Path, node: str) -> None:
        folder = state_dir / FOLDER
        self._command = folder / f"wish-{node}.json"
        self._outcome = folder / f"outcome-{node}.json"
        self._lock = folder / f"running-{node}.lock"

    # The node's end

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the node runs. What was asked of an earlier run is forgotten."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        self._forget()
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            for _ in range(LOCK_TRIES):  # whoever looks whether a node runs holds it for a moment
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(LOCK_PAUSE_S)
            yield  # without it: another node of this name, which the journal refuses
        finally:
            os.close(descriptor)

    def _forget(self) -> None:
        self._command.unlink(missing_ok=True)

    def next(self) -> FileCommand | None:
        """A new command, once."""
        try:
            with self._command.open("rb") as stream:
                believed = is_ours(os.fstat(stream.fileno()))
                text = stream.read(65_536)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            self._command.unlink()
        if not believed:
            return None
        try:
            return FileCommand.model_validate_json(text)
        except ValidationError:
            return None

    def tell(self, command: FileCommand, outcome: dict[str, Any]) -> None:
        """:raises OSError: the disk."""
        write_record(self._outcome, {"id": command.id, **outcome})

    # The command's end

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
        """What the node said. Waits for it as long as it runs.

        :raises BundleError: the node ended before. :raises OSError: the command can't be written.
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
        """Asks the node for it and doesn't wait.

        :raises BundleError: somebody else's waits. :raises OSError: the command can't be written.
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
        """What the node said; None while it has said nothing."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._outcome.read_text("utf-8"))
            if isinstance(found, dict) and found.get("id") == command.id:
                return found
        return None

    def withdraw(self, command: FileCommand) -> None:
        """Of a node that ended before it heard of it. :raises OSError: the disk."""
        with contextlib.suppress(OSError, ValidationError):
            if FileCommand.model_validate_json(self._command.read_bytes()).id == command.id:
                self._command.unlink()
