"""File ownership: detects files that other users can modify and that therefore must not be trusted."""

from __future__ import annotations

import os
from pathlib import Path

from edgeslm.errors import EdgeslmError


def is_ours(status: os.stat_result) -> bool:
    """Whether only root and this process's user can write to a file; ``status`` is the result of ``os.stat``
    for the file."""
    return not status.st_mode & 0o022 and status.st_uid in (0, os.geteuid())


def become_owner(state_dir: Path) -> None:
    """Switches a process that runs as root to the owner of the state folder, so that new files belong to the
    owner and files in the folder can't trick root.
    :raises EdgeslmError: the folder doesn't exist.
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
