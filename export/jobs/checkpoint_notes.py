"""Checkpoint notes: saves results of a command's finished steps, so that an interrupted command resumes."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

FORGOTTEN_S: Final = 30 * 24 * 3600.0
"""Age in seconds after which notes are removed."""


class Notes:
    """A folder of JSON files, one for each finished step. ``remove`` deletes the folder when the command is
    done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sweep(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> dict[str, Any] | None:
        """The saved result of the step ``name``; None if it is missing or can't be read."""
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return found

    def save(self, name: str, found: dict[str, Any]) -> None:
        """Saves a step's result, atomically and after everything that the step wrote: files that a note
        speaks of are there after a power cut."""
        os.sync()
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(found), "utf-8")
        partial.replace(self.folder / f"{name}.json")

    def state(self, name: str) -> Path:
        """The file in which a training run keeps its state."""
        return self.folder / f"{name}.pt"

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes old folders of notes next to ``folder`` whose names are equal to its name up to the last
    hyphen."""
    kind, now = folder.name.rpartition("-")[0], time.time()
    for other in folder.parent.glob(f"{kind}-*") if kind else ():
        if other != folder and now - other.stat().st_mtime > FORGOTTEN_S:
            shutil.rmtree(other, ignore_errors=True)
