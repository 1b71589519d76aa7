"""Checkpoint notes: what a command found so far, on disk; one that was interrupted goes on there.

Knows files, not what is in them.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Final

FORGOTTEN_S: Final = 30 * 24 * 3600.0
"""After so long nobody gives an interrupted command again."""


class Notes:
    """What was found so far, in a folder that outlives an interrupted command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sweep(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found

    def save(self, name: str, found: dict[str, Any]) -> None:
        """In one step."""
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(found), "utf-8")
        partial.replace(self.folder / f"{name}.json")

    def state(self, name: str) -> Path:
        """Where a run that teaches keeps how far it is."""
        return self.folder / f"{name}.pt"

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes forgotten notes beside ``folder``: those whose names are alike up to the last hyphen."""
    kind, now = folder.name.rpartition("-")[0], time.time()
    for other in folder.parent.glob(f"{kind}-*") if kind else ():
        if other != folder and now - other.stat().st_mtime > FORGOTTEN_S:
            shutil.rmtree(other, ignore_errors=True)
