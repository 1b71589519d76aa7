"""The starter folder: the default folder in which ``edgeslm-export starter`` puts its bundles."""

from __future__ import annotations

import os
from pathlib import Path


def starter_dir() -> Path:
    """``$XDG_DATA_HOME/edgeslm/starter``."""
    data = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "edgeslm/starter"
    except RuntimeError:
        return Path("/nonexistent")
