"""Update outcomes: a file with the state and reason of each model's last update.

The node writes the file when an update is over; other processes on the device read it. The file doesn't say
which bundle is active, since the store records the active bundle.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeslm.storage.atomic_json import write_record
from edgeslm.storage.file_ownership import is_ours

log = logging.getLogger("edgeslm.update")

State = Literal["IN_PROGRESS", "ON_TRIAL", "SUCCEEDED", "REJECTED", "FAILED"]
"""``REJECTED``: the new bundle never served requests. ``FAILED``: the new bundle was rolled back."""


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """The state of a model's update. ``why``: the reason if the update failed, as a clause."""

    state: State
    step: str
    bundle: str
    digest: str
    why: str = ""

    def figures(self) -> dict[str, str]:
        found = {"state": self.state, "step": self.step, "bundle": self.bundle, "digest": self.digest}
        return {**found, **({"why": self.why} if self.why else {})}


class UpdateOutcomes:
    """:param folder: the store's folder."""

    def __init__(self, folder: Path, node: str) -> None:
        self._file = folder / f"verdicts-{node}.json"

    def write(self, model: str, figures: Mapping[str, str]) -> None:
        """Writes a model's outcome; a disk error is only logged."""
        try:
            write_record(self._file, {**self._read(), model: dict(figures)})
        except OSError as error:
            log.warning("%s can't be written: %s", self._file, error)

    def all(self) -> dict[str, Any]:
        """The last outcome of each model."""
        return self._read()

    def why(self, model: str, digest: str) -> str:
        """Why the model's update to the bundle ``digest`` failed; empty if unknown."""
        said = self._read().get(model)
        if not isinstance(said, dict) or said.get("digest") not in (digest, ""):
            return ""  # an empty digest stands for a rollback at start
        return str(said.get("why", ""))

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, RecursionError), self._file.open("rb") as stream:
            if is_ours(os.fstat(stream.fileno())):
                found = json.loads(stream.read(1_000_000))
                return found if isinstance(found, dict) else {}
        return {}
