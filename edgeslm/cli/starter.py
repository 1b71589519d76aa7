"""The starter folder, in which ``edgeslm-export starter`` puts its bundles."""

from __future__ import annotations

import os
from pathlib import Path


def starter_dir() -> Path:
    """``$XDG_DATA_HOME/edgeslm/starter``, the default of ``edgeslm-export starter``."""
    data = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "edgeslm/starter"
    except RuntimeError:
        return Path("/nonexistent")


def nearest_starter_dir() -> Path:
    """``.edgeslm/starter`` of the working directory if it exists, as in a clone, else ``starter_dir()``."""
    here = Path(".edgeslm/starter").resolve()
    return here if here.is_dir() else starter_dir()
