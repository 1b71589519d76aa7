"""Whose a file is: what somebody else could have written is not believed. Knows no file's meaning."""

from __future__ import annotations

import os


def is_ours(status: os.stat_result) -> bool:
    """Whether only root and this process's user can have written what ``status`` is of."""
    return not status.st_mode & 0o022 and status.st_uid in (0, os.geteuid())
