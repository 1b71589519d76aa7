"""Rollout exchange: passes bundles and commands from a rollout process to a node that runs as another user.

The folder of the rollout process has the pending command and the archives; the node's folder has the status
of each model and the answers to commands. Each process can write only to its own folder, and the node treats
the archives as untrusted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from pydantic import ValidationError

from edgeslm.errors import BundleError
from edgeslm.storage.atomic_json import write_record
from edgeslm.update.command_file import CommandFile, FileCommand
from edgeslm.update.store import FOLDER

log = logging.getLogger("edgeslm.update")

ANSWERS: Final = "rollouts"
"""Name of the folder for the node's answers, within the node's state folder."""
MOST_BYTES: Final = 1_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_FOR_THE_GROUP: Final = 0o640


def folder_beside(state_dir: Path) -> Path:
    """The rollout process's folder, next to the node's state folder."""
    return state_dir.with_name(f"{state_dir.name}-hawkbit")


class Exchange(CommandFile):
    """Exchange between a node and its rollout process; has methods for both processes.

    The user of the rollout process must be in the node's group.
    """

    def __init__(self, state_dir: Path, node: str) -> None:
        super().__init__(state_dir, node)
        self.folder = folder_beside(state_dir)
        answers = state_dir / ANSWERS
        self._command = self.folder / f"wish-{node}.json"
        self._outcome = answers / f"outcome-{node}.json"
        self._lock = answers / f"running-{node}.lock"
        self._status = answers / f"models-{node}.json"
        self._seen = ""
        self._has_complained = False
        self._told: Mapping[str, Any] = {}

    # The node's side

    def _forget(self) -> None:
        answers = self._lock.parent
        answers.chmod(0o750)
        os.close(os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _FOR_THE_GROUP))
        self._lock.chmod(_FOR_THE_GROUP)
        self.next()

    def next(self) -> FileCommand | None:
        """The next command, returned only once; None if there is none.

        The node remembers the command's id, since it can't delete the rollout process's file.
        """
        try:
            with self._open(self._command) as stream:
                command = FileCommand.model_validate_json(stream.read(65_536))
        except BundleError as error:
            if not self._has_complained:
                log.warning("%s", error)
            self._has_complained = True
            return None
        except (OSError, ValidationError):
            return None
        if command.id == self._seen:
            return None
        self._seen = command.id
        return command.model_copy(update={"older": False})  # only the operator may allow that

    def archive(self, name: str | None) -> IO[bytes]:
        """Opens an archive in the rollout process's folder.

        :raises BundleError: the name is invalid, or the file isn't trusted.
        :raises OSError: the file can't be read.
        """
        if name is None or not _NAME.fullmatch(name):
            raise BundleError("the rollout's process names no archive of its folder")
        return self._open(self.folder / FOLDER / name)

    def tell(self, command: FileCommand, outcome: dict[str, Any]) -> None:
        write_record(self._outcome, {"id": command.id, **outcome}, mode=_FOR_THE_GROUP)

    def tell_status(self, status: Mapping[str, Any]) -> None:
        """Writes the models' status (bundles, trials, last updates) if it has changed. :raises OSError: a
        disk error."""
        if status != self._told:
            write_record(self._status, status, mode=_FOR_THE_GROUP)
            self._told = status

    def _open(self, file: Path) -> IO[bytes]:
        """:raises BundleError: another user could have written the file, or it isn't a plain file."""
        for folder in (self.folder, self.folder.parent):
            if folder.stat().st_mode & 0o022:
                raise BundleError(f"{folder}: can be written by other users and is ignored")
        stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
            raise BundleError(f"{file}: no plain file")
        return stream

    # The process's side

    def status(self) -> dict[str, Any]:
        """The models' status as the node last wrote it; empty if the node hasn't written a status."""
        with contextlib.suppress(OSError, ValueError, RecursionError), self._status.open("rb") as stream:
            found = json.loads(stream.read(MOST_BYTES))
            if isinstance(found, dict):
                return found
        return {}

    def _write(self, command: FileCommand) -> None:
        write_record(self._command, command.model_dump(exclude_defaults=True), mode=_FOR_THE_GROUP)

    def offer(self, archive: Path) -> None:
        """Lets the node read an archive. :raises OSError: a disk error."""
        archive.parent.chmod(0o750)
        archive.chmod(_FOR_THE_GROUP)
