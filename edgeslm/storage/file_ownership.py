"""File ownership: what somebody else could have written is not believed. Knows no file's meaning."""

from __future__ import annotations

import os
from pathlib import Path

from edgeslm.errors import EdgeslmError


def is_ours(status: os.stat_result) -> bool:
    """Whether only root and this process's user can have written what ``status`` is of."""
    return not status.st_mode & 0o022 and status.st_uid in (0, os.geteuid())


def become_owner(state_dir: Path) -> None:
    """Root goes on as the user of the state folder: nothing that this user put there may lead root astray,
    and what is brought has to be the user's.

    :raises EdgeslmError: there is no such folder yet.
    """
    if os.geteuid():
        return
    if not state_dir.is_dir():
        raise EdgeslmError(f"{state_dir}: missing; start the node once, or make it for the node's user")
    owner = state_dir.stat()
    if owner.st_uid:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
