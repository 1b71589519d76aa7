"""What a command found so far, noted on disk: one that was interrupted goes on where it stood.

Knows files, not what is in them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


class Notes:
    """What was found so far, in a folder that outlives an interrupted command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
